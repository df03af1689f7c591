"""From the arrays of a batch to the answer of each request: the only per-item work in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.dropped_candidates import DroppedDraw
from recsys.history_columns import item_ids_of
from recsys.kernels.chosen import fill_chosen
from recsys.list_traits import ListTraits
from recsys.settings import Settings
from recsys.slate_traits import diversity_of, novelty_of
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
    shown, unshown = _chosen(bundle, columns, settings.serve.log_unshown)
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

    return said(diversity_of(traits, lists)), said(novelty_of(traits, lists))


def _chosen(
    bundle: GatewayBundle, columns: BatchColumns, n_unshown: int
) -> tuple[list[Chosen], list[Chosen]]:
    """What each slate shows, and the best-scored candidates that it does not."""
    found, picked = columns.candidates, np.ascontiguousarray(columns.ordered.picked)
    n_requests, n_positions = picked.shape
    n_candidates = found.rows.shape[1]
    if int(picked.max(initial=NO_ROW)) >= n_candidates:
        raise IndexError(f"a slate names column {picked.max()} of {n_candidates} candidates")
    width = n_positions + n_unshown
    told = np.zeros((4, n_requests, width), np.int64)
    scores = np.zeros((2, n_requests, width))
    lengths = np.zeros((n_requests, 2), np.int64)
    fill_chosen(
        np.ascontiguousarray(found.rows),
        np.ascontiguousarray(found.sources),
        np.ascontiguousarray(found.ranks),
        np.ascontiguousarray(columns.scores.retrieval_scores, np.float32),
        np.ascontiguousarray(columns.scores.utility, np.float32),
        picked,
        n_unshown,
        told,
        scores,
        lengths,
    )
    lists = (*told.tolist(), *scores.tolist())
    shown, unshown = [], []
    for i, (n_shown, n_others) in enumerate(lengths.tolist()):
        own = [values[i] for values in lists]
        shown.append(_named(bundle, own, 0, n_shown))
        unshown.append(_named(bundle, own, n_positions, n_positions + n_others))
    return shown, unshown


def _named(bundle: GatewayBundle, own: Sequence[list[Any]], begin: int, end: int) -> Chosen:
    """A part of what `fill_chosen` tells of one request, with names for rows and sources."""
    rows, sources, ranks, score_ranks, scores, retrieval = [values[begin:end] for values in own]
    item_ids = bundle.items.item_ids
    return Chosen(
        item_ids=[item_ids[row] for row in rows],
        scores=scores,
        sources=[SOURCE_NAMES[source] for source in sources],
        retrieval_scores=retrieval,
        retrieval_ranks=ranks,
        score_ranks=score_ranks,
    )


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
