"""What was trending and what was fresh at past moments: the definitions of serving over columns."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import MS_PER_DAY
from recsys.feature_definitions import (
    TREND_LONG_S,
    TREND_PRIOR,
    TREND_SHORT_S,
    bucket_width_ms,
    first_bucket,
)
from recsys.types import NO_ROW, RowArray
from train_app.examples.interactions import Interactions


class PastTrends:
    """The trending list at any past moment.

    As of the start of the bucket the moment lies in: so nobody learns anything of the moment
    itself, and moments of one bucket share a list.
    """

    def __init__(self, log: Interactions, negative_kinds: Collection[str]) -> None:
        negative = [place for place, kind in enumerate(log.kinds) if kind in negative_kinds]
        is_positive = ~np.isin(log.kind_ids, np.asarray(negative, np.uint8))
        rows, times = log.rows[is_positive], log.timestamps_ms[is_positive]
        order = np.argsort(times, kind="stable")
        self._rows, self._times = rows[order], times[order]
        ids = np.asarray([item.item_id for item in log.items], dtype=object)
        self._place_of_row = np.argsort(np.argsort(ids))
        self._short, self._long = np.zeros((2, log.n_items), np.int64)
        self._short_at = self._long_at = (0, 0)

    def lists(self, moments_ms: NDArray[np.int64], n_kept: int) -> RowArray:
        """The rows that were trending at each moment, best first, [E, n_kept]; -1 for padding."""
        width_ms = bucket_width_ms(TREND_SHORT_S)
        buckets, place = np.unique(moments_ms - moments_ms % width_ms, return_inverse=True)
        lists = np.full((len(buckets), n_kept), NO_ROW, np.int32)
        for bucket, now_ms in enumerate(buckets.tolist() if n_kept else ()):
            best = self._best_at(now_ms)[:n_kept]
            lists[bucket, : len(best)] = best
        return lists[place]

    def _best_at(self, now_ms: int) -> NDArray[np.int64]:
        """The rows above expectation at a moment, highest first, equal ones by id."""
        self._short_at = self._moved(self._short, self._short_at, now_ms, TREND_SHORT_S)
        self._long_at = self._moved(self._long, self._long_at, now_ms, TREND_LONG_S)
        # One engagement is never above what is expected at least.
        rows = np.flatnonzero(self._short > 1)
        scores = trend_scores(self._short[rows], self._long[rows])
        rows, scores = rows[scores > 0], scores[scores > 0]
        return rows[np.lexsort((self._place_of_row[rows], -scores))]

    def _moved(
        self, counts: NDArray[np.int64], at: tuple[int, int], now_ms: int, window_s: int
    ) -> tuple[int, int]:
        """Count the events of the window that ends at a moment; from the last one, if near."""
        bounds = (first_bucket(now_ms, window_s), now_ms)
        begin, end = np.searchsorted(self._times, bounds).tolist()
        if at[0] <= begin < at[1] <= end:
            np.add.at(counts, self._rows[at[1] : end], 1)
            np.subtract.at(counts, self._rows[at[0] : begin], 1)
        else:
            counts[:] = np.bincount(self._rows[begin:end], minlength=len(counts))
        return begin, end


def trend_scores(n_short: NDArray[np.int64], n_long: NDArray[np.int64]) -> NDArray[np.float64]:
    """`recsys.feature_definitions.trend_score` of many items."""
    rest_s = TREND_LONG_S - TREND_SHORT_S
    expected = TREND_PRIOR + np.maximum(0, n_long - n_short) * TREND_SHORT_S / rest_s
    return np.asarray((n_short - expected) / np.sqrt(expected), np.float64)


def fresh_at(
    log: Interactions, moments_ms: NDArray[np.int64], fresh_days: float, n_kept: int
) -> RowArray:
    """The newest items at each moment, newest first, [E, n_kept]; -1 for padding.

    As `ItemTable.fresh_rows`, of the items created by then.
    """
    created = np.asarray(
        [
            item.created_ms if item.available and item.created_ms is not None else -1
            for item in log.items
        ],
        np.int64,
    )
    known = np.flatnonzero(created >= 0)
    # Of equal times the first row comes first, read from the end.
    order = known[np.lexsort((-known, created[known]))]
    times = created[order]
    ends = np.searchsorted(times, moments_ms, side="right")
    at = ends[:, None] - 1 - np.arange(n_kept)
    safe = np.maximum(at, 0)
    if not len(order):
        return np.full(at.shape, NO_ROW, np.int32)
    newest = times[np.maximum(ends - 1, 0)][:, None]
    is_fresh = (at >= 0) & (times[safe] > newest - fresh_days * MS_PER_DAY)
    return np.where(is_fresh, order[safe], NO_ROW).astype(np.int32)
