"""From the arrays of a batch to the answer of each request: the only per-item work in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import best_columns
from recsys.dropped_candidates import DroppedDraw
from recsys.history_columns import item_ids_of
from recsys.list_traits import ListTraits
from recsys.settings import Settings
from recsys.types import NO_ROW, RowArray, Source, UserState
from serve_app.asks import Answer, Ask, Chosen, Dropped
from serve_app.explanations import BatchColumns, explain_shown, to_attribute
from serve_app.residents.bundle_loading import GatewayBundle

SOURCE_NAMES = tuple(source.name.lower() for source in Source)


def answers_of(
    bundle: GatewayBundle,
    asks: Sequence[Ask],
    users: Sequence[UserState],
    columns: BatchColumns,
    settings: Settings,
) -> list[Answer]:
    """One answer per request; coverage, degraded reasons and timings are the caller's to add."""
    by_score = best_columns(columns.scores.utility, columns.scores.utility.shape[1])
    ranks = np.empty_like(by_score)
    requests = np.arange(len(by_score))[:, None]
    ranks[requests, by_score] = np.arange(by_score.shape[1], dtype=np.int32)
    shown = _choose(bundle, columns, ranks, columns.ordered.picked)
    unshown = _choose(
        bundle, columns, ranks, _unshown(columns, by_score, settings.serve.log_unshown)
    )
    dropped = _dropped(bundle, columns.dropped)
    propensities = columns.ordered.propensity.tolist()
    diversities, novelties = traits_of_slates(
        bundle.items.traits, columns.candidates.rows, columns.ordered.picked
    )
    return [
        Answer(
            ask=ask,
            bundle_id=bundle.bundle_id,
            shown=shown[i],
            propensities=propensities[i][: len(shown[i].item_ids)],
            unshown=unshown[i],
            dropped=dropped[i],
            explanations=(
                explain_shown(bundle, columns, shown[i], i, settings, ask.overrides)
                if ask.request.explain
                else None
            ),
            coverage=1.0,
            degraded=(),
            history_version=users[i].version,
            history_items=_newest_items(users[i], settings.serve.log_history),
            stage_ms={},
            to_attribute=(
                to_attribute(bundle, columns, i, settings.serve.explain_events)
                if ask.request.explain
                else None
            ),
            diversity=diversities[i],
            novelty=novelties[i],
        )
        for i, ask in enumerate(asks)
    ]


def traits_of_slates(
    traits: ListTraits, rows: RowArray, picked: RowArray
) -> tuple[list[float | None], list[float | None]]:
    """Diversity and novelty of every slate; None where nothing is shown or it cannot be told.

    Args:
        rows: [B, C] items of the candidates.
        picked: [B, K] columns of the slates, -1 padded.
    """
    nothing: list[float | None] = [None] * len(picked)
    if picked.shape[1] == 0 or rows.shape[1] == 0:
        return nothing, nothing
    taken = np.take_along_axis(rows, np.maximum(picked, 0).astype(np.intp), axis=1)
    lists = np.where(picked >= 0, taken, NO_ROW)
    shows = np.any(lists >= 0, axis=1)

    def said(values: NDArray[np.float64] | None) -> list[float | None]:
        if values is None:
            return nothing
        return [
            one if is_shown else None for one, is_shown in zip(values.tolist(), shows, strict=True)
        ]

    return said(traits.diversity(lists)), said(traits.novelty(lists))


def _choose(
    bundle: GatewayBundle, columns: BatchColumns, ranks: RowArray, picked: RowArray
) -> list[Chosen]:
    """The picked columns [B, K] of every request, padding (-1, at the end) left out."""
    if picked.shape[1] == 0 or columns.candidates.rows.shape[1] == 0:
        return [Chosen([], [], [], [], [], []) for _ in picked]
    lengths = (picked >= 0).sum(axis=1).tolist()
    safe = np.maximum(picked, 0)
    requests = np.arange(len(picked))[:, None]

    def taken(values: NDArray[Any]) -> list[list[Any]]:
        listed: list[list[Any]] = values[requests, safe].tolist()
        return listed

    def finite(values: NDArray[Any]) -> list[list[Any]]:
        # JSON has no infinity and no NaN; they stand only where a stage was away.
        chosen = values[requests, safe]
        listed: list[list[Any]] = np.where(np.isfinite(chosen), chosen, 0.0).tolist()
        return listed

    rows = taken(columns.candidates.rows)
    scores = finite(columns.scores.utility)
    retrieval = finite(columns.scores.retrieval_scores)
    sources = taken(columns.candidates.sources)
    source_ranks = taken(columns.candidates.ranks)
    score_ranks = taken(ranks)
    item_ids = bundle.items.item_ids
    return [
        Chosen(
            item_ids=[item_ids[row] for row in rows[i][:n]],
            scores=scores[i][:n],
            sources=[SOURCE_NAMES[source] for source in sources[i][:n]],
            retrieval_scores=retrieval[i][:n],
            retrieval_ranks=source_ranks[i][:n],
            score_ranks=score_ranks[i][:n],
        )
        for i, n in enumerate(lengths)
    ]


def _unshown(columns: BatchColumns, by_score: RowArray, n_unshown: int) -> RowArray:
    """The best-scored columns [B, n] that no slate shows, -1 where there are no more."""
    utility = columns.scores.utility
    if not n_unshown or not utility.shape[1]:
        return np.empty((len(utility), 0), np.int32)
    rest = utility.copy()
    picked = columns.ordered.picked
    requests, positions = np.nonzero(picked >= 0)
    rest[requests, picked[requests, positions]] = -np.inf
    width = min(n_unshown + picked.shape[1], by_score.shape[1])
    head = by_score[:, :width]
    rows = np.arange(len(head))[:, None]
    alive = np.isfinite(rest[rows, head])
    first = np.argsort(~alive, axis=1, kind="stable")[:, :n_unshown]
    return np.where(alive[rows, first], head[rows, first], NO_ROW).astype(np.int32)


def _dropped(bundle: GatewayBundle, drawn: DroppedDraw) -> list[Dropped]:
    """What was drawn for every request, padding (-1, at the end) left out."""
    scores = np.where(np.isfinite(drawn.retrieval_scores), drawn.retrieval_scores, 0.0).tolist()
    lengths = (drawn.rows >= 0).sum(axis=1).tolist()
    rows, ranks, totals = drawn.rows.tolist(), drawn.ranks.tolist(), drawn.n_dropped.tolist()
    item_ids, source = bundle.items.item_ids, SOURCE_NAMES[Source.INDEX]
    return [
        Dropped(
            item_ids=[item_ids[row] for row in rows[i][:n]],
            sources=[source] * n,
            retrieval_scores=scores[i][:n],
            retrieval_ranks=ranks[i][:n],
            n_dropped=totals[i],
        )
        for i, n in enumerate(lengths)
    ]


def _newest_items(user: UserState, n: int) -> tuple[str, ...]:
    return tuple(item_ids_of(user.history)[-n:]) if n else ()
