"""The candidates of every source beside the index at past moments, without a look ahead.

What a source would have proposed to whoever asked at the moment: of engagements strictly before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.neighbour_candidates import neighbour_candidates, newest_seeds, seed_kinds
from recsys.settings import Settings
from recsys.types import NO_ROW, Batch, RowArray, Source
from train_app.examples.interactions import Interactions
from train_app.past.past_pairs import past_pairs
from train_app.past.past_trends import PastTrends, fresh_at

MAX_TABLES = 24
"""Neighbours and popularity are as of the first of the moments that share a table, so never of a
later one."""


def past_extras(
    log: Interactions,
    history: Batch,
    moments_ms: NDArray[np.int64],
    settings: Settings,
) -> list[tuple[Source, RowArray]]:
    """What serving would have merged with the index at E moments, in its order of precedence.

    Args:
        log: all engagements; those at a moment or after it are not used for it.
        history: "items" and "kinds" [E, L] of who asked, with the kinds of the log.

    Returns:
        Per source the rows [E, m], best first, -1 for padding.
    """
    retrieval, negative = settings.retrieval, settings.events.negative_kinds
    trending = PastTrends(log, negative).lists(moments_ms, retrieval.n_trending)
    return [
        (Source.NEIGHBOURS, past_neighbours(log, history, moments_ms, settings)),
        (Source.TRENDING, trending),
        (Source.POPULAR, past_popular(log, moments_ms, negative, retrieval.n_popular)),
        (Source.FRESH, fresh_at(log, moments_ms, retrieval.fresh_days, retrieval.n_fresh)),
    ]


def past_neighbours(
    log: Interactions, history: Batch, moments_ms: NDArray[np.int64], settings: Settings
) -> RowArray:
    """The neighbours of each history's newest items as of its moment, [E, n]; -1 for padding."""
    retrieval, negative = settings.retrieval, settings.events.negative_kinds
    found = np.full((len(moments_ms), retrieval.n_neighbours), NO_ROW, np.int32)
    if not found.size:
        return found
    is_seed = seed_kinds(log.kinds, negative)
    seeds = newest_seeds(history, is_seed, retrieval.neighbour_seeds)
    pairs = past_pairs(log, negative, settings.features)
    for group in np.array_split(np.argsort(moments_ms, kind="stable"), MAX_TABLES):
        if len(group):
            table = pairs.neighbours(int(moments_ms[group[0]]), retrieval.n_neighbours)
            found[group] = neighbour_candidates(
                table, seeds[group], history["items"][group], retrieval.n_neighbours
            )
    return found


def past_popular(
    log: Interactions, moments_ms: NDArray[np.int64], negative_kinds: tuple[str, ...], n: int
) -> RowArray:
    """The items most engaged with before each moment, best first, [E, n]; -1 for padding."""
    found = np.full((len(moments_ms), min(n, log.n_items)), NO_ROW, np.int32)
    if not found.size:
        return found
    is_counted = np.asarray([kind not in negative_kinds for kind in log.kinds], np.bool_)
    order = np.argsort(log.timestamps_ms, kind="stable")
    order = order[is_counted[log.kind_ids[order]]]
    times_ms, rows = log.timestamps_ms[order], log.rows[order]
    for group in np.array_split(np.argsort(moments_ms, kind="stable"), MAX_TABLES):
        if len(group):
            end = int(np.searchsorted(times_ms, moments_ms[group[0]]))
            counts = np.bincount(rows[:end], minlength=log.n_items)
            best = np.argsort(-counts, kind="stable")[: found.shape[1]]
            found[group] = np.where(counts[best] > 0, best, NO_ROW)
    return found
