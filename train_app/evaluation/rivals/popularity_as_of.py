"""The baseline `popularity, trending`: what most engaged with in a window that ends at the query.

What a server that counts as it goes would know: everybody's engagements strictly before the query,
those after the cut among them. So it goes with the time protocol alone, where they were known.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from recsys.settings import Settings
from recsys.types import FloatArray, RowArray
from train_app.evaluation.baselines import popularity
from train_app.evaluation.breakdown.cost_meter import Cost, CostMeter
from train_app.evaluation.evaluation_protocols import HeldOut, is_positive
from train_app.evaluation.evaluation_table import NDCG, measure
from train_app.evaluation.rankers import Ranker, batch_size, top_lists
from train_app.evaluation.rivals.tune_rivals import Fitted, validation_of
from train_app.examples.interactions import Interactions

POPULARITY_TRENDING = "popularity, trending"
WINDOWS_HOURS = (1, 6, 24, 72, 168, 336, 720, 2_160)
START_HOURS = 168
"""Where nothing is tuned: the seven days that time-split studies take."""
_MS_PER_HOUR = 3_600_000


class PopularityAsOf:
    """Engagements of each item in a window up to any moment, negative kinds left out.

    Args:
        log: whose engagements are counted, before and after any cut.
        ties: [N] decides between items of equal counts.
    """

    def __init__(
        self, log: Interactions, negative_kinds: tuple[str, ...], ties: FloatArray
    ) -> None:
        places = np.flatnonzero(is_positive(log, negative_kinds))
        places = places[np.argsort(log.timestamps_ms[places], kind="stable")]
        self._rows, self._times_ms = log.rows[places], log.timestamps_ms[places]
        self._ties = (ties / (ties.max(initial=0.0) + 1.0)).astype(np.float32)  # 0 to below 1

    def scores(self, moments_ms: NDArray[np.int64], window_ms: int) -> FloatArray:
        """Scores of every item at moments [B], of the engagements strictly before each, [B, N]."""
        begins = np.searchsorted(self._times_ms, moments_ms - window_ms)
        ends = np.searchsorted(self._times_ms, moments_ms)
        scores = np.empty((len(moments_ms), len(self._ties)), np.float32)
        counts = np.zeros(len(self._ties), np.int64)
        begun = ended = 0
        for query in np.argsort(moments_ms, kind="stable").tolist():
            begin, end = int(begins[query]), int(ends[query])
            if begin < ended:  # both ends only move on, so the window is moved and not made anew
                np.add.at(counts, self._rows[ended:end], 1)
                np.subtract.at(counts, self._rows[begun:begin], 1)
            else:
                counts = np.bincount(self._rows[begin:end], minlength=len(counts))
            begun, ended = begin, end
            scores[query] = counts + self._ties
        return scores


def fit_popularity_as_of(held_out: HeldOut, settings: Settings, *, tune: bool) -> Fitted:
    """The baseline with the window that ranks a slice of the training part best.

    Args:
        tune: choose the window; the start value is taken where not, or where there is no slice.
    """
    hours, tuning, said = START_HOURS, None, "not tuned"
    validation = validation_of(held_out, settings) if tune else None
    if validation is not None:
        with CostMeter() as meter:
            hours = _best_window(validation, settings)
        tuning = meter.cost
        said = (
            f"the best of {len(WINDOWS_HOURS)} settings of {len(WINDOWS_HOURS)} on"
            f" {len(validation):,} engagements of the training part"
        )
    with CostMeter() as meter:
        ranker = _rankers(held_out, settings)(hours)
    return _fitted(ranker, hours, tuning, meter.cost, said)


def _fitted(ranker: Ranker, hours: int, tuning: Cost | None, fitting: Cost, said: str) -> Fitted:
    days = hours / 24
    note = f"{POPULARITY_TRENDING}: the {days:.3g} days up to the query ({said})"
    return Fitted(POPULARITY_TRENDING, ranker, {"days": days}, tuning, fitting, note)


def _best_window(validation: HeldOut, settings: Settings) -> int:
    """The hours of highest NDCG@10; of equal ones the shortest."""
    ranker_of = _rankers(validation, settings)
    size = batch_size(validation.interactions.n_items)

    def quality(hours: int) -> float:
        ranker = ranker_of(hours)
        found = [
            measure(ranker(batch)[POPULARITY_TRENDING], batch.targets).per_query[NDCG]
            for batch in validation.batches(size)
        ]
        return float(np.concatenate(found).mean())

    return max(WINDOWS_HOURS, key=quality)


def _rankers(held_out: HeldOut, settings: Settings) -> Callable[[int], Ranker]:
    """Rankers by their window in hours."""
    negative_kinds = settings.events.negative_kinds
    ties = popularity(held_out.train, negative_kinds)
    counted = PopularityAsOf(held_out.interactions, negative_kinds, ties)

    def ranker_of(hours: int) -> Ranker:
        def rank(queries: HeldOut) -> dict[str, RowArray]:
            moments_ms = queries.interactions.timestamps_ms[queries.positions]
            scores = counted.scores(moments_ms, hours * _MS_PER_HOUR)
            return {POPULARITY_TRENDING: top_lists(scores, queries)}

        return rank

    return ranker_of
