"""Asks a bundle's scorer as serving does: the probabilities of its page, and what a request costs.

Knows bundles through `rankers`; what may be concluded is `gate_guardrails`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import best_columns
from recsys.stages import Stage
from recsys.types import NO_ROW, Batch, Item, RowArray
from train_app.evaluation.breakdown.scorer_calibration import acts_on_target
from train_app.evaluation.breakdown.watched_stages import watched
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.evaluation_table import PAGE_LENGTH
from train_app.evaluation.gate_guardrails import Calibration
from train_app.evaluation.metrics import Values
from train_app.evaluation.rankers import BundleParts, BundleRanker
from train_app.examples.interactions import Interactions

_BATCH = 32
_N_TIMED = 4
_N_ROUNDS = 15
"""Every bundle is timed so often, in turns, and its fastest round counts."""
_MAX_TOKENS = 12
_MAX_NEW_SHARE = 0.5
"""Where more of the catalogue than this is new, new says nothing."""
_MS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Probed:
    """A bundle to ask."""

    parts: BundleParts
    n_candidates: int


class CalibrationProbe:
    """Ranks as a bundle does and notes what its scorer says of the pages.

    The page is the best `PAGE_LENGTH` candidates of all sources; the acts are the user's own on
    the held-out item.
    """

    def __init__(
        self,
        parts: BundleParts,
        interactions: Interactions,
        n_candidates: int,
        negative_kinds: Sequence[str],
    ) -> None:
        observed, self._watch = watched(parts)
        self._ranker = BundleRanker(observed, interactions, n_candidates)
        self._actions = _actions(parts, interactions, negative_kinds)
        self._row_of = _bundle_rows(parts, interactions)
        self._probabilities: list[Values] = []
        self._outcomes: list[NDArray[np.bool_]] = []

    def __call__(self, queries: HeldOut) -> dict[str, RowArray]:
        """The bundle's lists."""
        lists = self._ranker(queries)
        scored = self._watch.scored
        if scored is not None and "probabilities" in scored:
            self._note(queries, scored)
        return lists

    def found(self) -> Calibration:
        """Probabilities of acts on the pages made so far, and the acts."""
        return Calibration(
            np.concatenate([np.zeros(0), *self._probabilities]),
            np.concatenate([np.zeros(0, np.bool_), *self._outcomes]),
        )

    def _note(self, queries: HeldOut, scored: Batch) -> None:
        columns = best_columns(scored["utility"], min(PAGE_LENGTH, scored["rows"].shape[1]))
        rows = np.take_along_axis(scored["rows"], columns, 1)  # [b, K]
        shown = np.take_along_axis(scored["probabilities"], columns[..., None], 1)
        is_target = (rows == self._row_of[queries.targets][:, None]) & (rows >= 0)
        acted = (
            is_target[..., None] & acts_on_target(queries)[:, None, self._actions.kinds]
        )  # [b, K, A]
        usable = np.broadcast_to((rows >= 0)[..., None], acted.shape)
        said = np.asarray(shown[..., self._actions.places], np.float64)
        self._probabilities.append(said[usable])
        self._outcomes.append(acted[usable])


def probe_costs(
    bundles: Sequence[Probed], queries: HeldOut, cpu_s: Callable[[], float]
) -> list[float]:
    """Processor time in ms of scoring one request, of each bundle.

    Args:
        cpu_s: seconds of processor time of this process, so that a busy machine does not count.
    """
    parts = list(islice(queries.batches(_BATCH), _N_TIMED))
    n_requests = sum(len(part) for part in parts)
    asked = [_scoring(probed, parts) for probed in bundles]
    fastest = [np.inf] * len(bundles)
    for _ in range(_N_ROUNDS):
        for place, probed in enumerate(bundles):
            began_s = cpu_s()
            for batch in asked[place]:
                probed.parts.scorer("score", batch)
            fastest[place] = min(fastest[place], cpu_s() - began_s)
    return [1000.0 * spent / max(n_requests, 1) for spent in fastest]


def item_tokens(items: Sequence[Item]) -> RowArray:
    """Codes of each item's categories and creator, [N, T], -1 padded."""
    code: dict[tuple[str, str], int] = {}
    tokens = np.full((len(items), _MAX_TOKENS), NO_ROW, np.int32)
    for row, item in enumerate(items):
        named = [("category", name) for name in dict.fromkeys(item.categories)]
        named += [("creator", item.creator)] if item.creator else []
        codes = [code.setdefault(name, len(code)) for name in named[:_MAX_TOKENS]]
        tokens[row, : len(codes)] = codes
    width = max(int((tokens >= 0).sum(1).max(initial=0)), 1)
    return tokens[:, :width]


def new_items(interactions: Interactions, cutoff_ms: int, fresh_days: float) -> NDArray[np.bool_]:
    """Items that appeared within `fresh_days` before the cutoff, [N]; none where that says little.

    By when they were created, or where no item says that, by their first engagement.
    """
    created = np.asarray([item.created_ms or NO_ROW for item in interactions.items], np.int64)
    if not (created > 0).any():
        created = np.full(interactions.n_items, np.iinfo(np.int64).max)
        np.minimum.at(created, interactions.rows, interactions.timestamps_ms)
    is_new = created > cutoff_ms - fresh_days * _MS_PER_DAY
    return is_new if is_new.mean() <= _MAX_NEW_SHARE else np.zeros(len(is_new), np.bool_)


@dataclass(frozen=True)
class _Actions:
    """The positive actions that both the bundle and the data know."""

    places: NDArray[np.int64]  # among the bundle's actions
    kinds: NDArray[np.int64]  # among the data's kinds


def _actions(
    parts: BundleParts, interactions: Interactions, negative_kinds: Sequence[str]
) -> _Actions:
    place = {kind: at for at, kind in enumerate(parts.schema.kinds)}
    shared = [k for k in interactions.kinds if k in place and k not in set(negative_kinds)]
    return _Actions(
        np.asarray([place[kind] for kind in shared], np.int64),
        np.asarray([interactions.kinds.index(kind) for kind in shared], np.int64),
    )


class _Asked:
    """A scorer that keeps what it was last asked to score."""

    def __init__(self, scorer: Stage) -> None:
        self._scorer = scorer
        self.nbytes = scorer.nbytes
        self.last: Batch | None = None

    def __call__(self, method: str, batch: Batch) -> Batch:
        """Answer as the scorer does."""
        if method == "score":
            self.last = batch
        return self._scorer(method, batch)


def _scoring(probed: Probed, parts: Sequence[HeldOut]) -> list[Batch]:
    """What the scorer is asked for the pages of the queries: features and merged candidates."""
    asked = _Asked(probed.parts.scorer)
    own = replace(probed.parts, scorer=asked)
    batches: list[Batch] = []
    for part in parts:
        BundleRanker(own, part.interactions, probed.n_candidates)(part)
        batches += [] if asked.last is None else [asked.last]
    return batches


def _bundle_rows(parts: BundleParts, interactions: Interactions) -> RowArray:
    """The bundle's row of every item; the last cell answers for -1."""
    row_of = {item_id: row for row, item_id in enumerate(parts.item_ids)}
    rows = [row_of.get(item.item_id, NO_ROW) for item in interactions.items]
    return np.asarray([*rows, NO_ROW], np.int32)
