"""The neighbours of what a user engaged with last, as candidates: item-to-item over a whole batch.

NumPy only; knows neither stores nor what neighbours are made of. Legend: S seeds per request,
M neighbours kept per item, W = S * M + L columns that compete.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import best_columns
from recsys.features import FIRST_KIND
from recsys.types import NO_ROW, Batch, FloatArray, RowArray

SEED_DECAY = 0.85
"""What a seed's neighbours weigh against those of the next newer seed."""
_HALF = np.uint64(32)
_LOW_BITS = np.uint64(0xFFFF_FFFF)


@dataclass(frozen=True, slots=True)
class NeighbourTable:
    """The neighbours of every item of a bundle, best first: 6 bytes an entry.

    Padding, row -1 with score -inf, may stand anywhere.
    """

    rows: RowArray  # [N, M]
    scores: NDArray[np.float16]  # [N, M], 0 to 1

    @classmethod
    def empty(cls, n_items: int, n_neighbours: int) -> NeighbourTable:
        """Nobody has neighbours."""
        shape = (n_items, n_neighbours)
        return cls(np.full(shape, NO_ROW, np.int32), np.full(shape, -np.inf, np.float16))

    def replaced(self, items: RowArray, theirs: NeighbourTable) -> NeighbourTable:
        """The table with the neighbours `theirs` [K, M] of items [K]; this one stays as it is."""
        table = NeighbourTable(self.rows.copy(), self.scores.copy())
        table.rows[items], table.scores[items] = theirs.rows, theirs.scores
        return table


def seed_kinds(kinds: Sequence[str], negative_kinds: Collection[str]) -> NDArray[np.bool_]:
    """Which kinds of `history_arrays` make a seed, [kinds]: those a bundle knows, no negative one.

    A kind unknown to the bundle may be a negative one, so it makes none.
    """
    is_seed = [False] * FIRST_KIND + [kind not in negative_kinds for kind in kinds]
    return np.asarray(is_seed, np.bool_)


def newest_seeds(history: Batch, is_seed_kind: NDArray[np.bool_], n_seeds: int) -> RowArray:
    """The items each user engaged with last, newest first, each once, [B, S]; -1 for padding.

    Args:
        history: "items" and "kinds" [B, L] as `recsys.features.history_arrays` makes them.
        is_seed_kind: see `seed_kinds`.
    """
    newest_first = history["items"][:, ::-1]
    rows = np.where(is_seed_kind[history["kinds"][:, ::-1]], newest_first, NO_ROW)
    names, places, is_first = _grouped(rows)
    # Where each row's newest column is marked, the marks up to it number the seeds.
    is_newest = np.zeros(rows.shape, np.bool_)
    is_newest.ravel()[places[is_first & (names >= 0)]] = True
    number = np.cumsum(is_newest, axis=1, dtype=np.int32)
    is_newest &= number <= n_seeds
    number += np.arange(len(rows), dtype=np.int32)[:, None] * n_seeds - 1
    seeds = np.full((len(rows), n_seeds), NO_ROW, np.int32)
    seeds.ravel()[number[is_newest]] = rows[is_newest]
    return seeds


def neighbour_candidates(
    table: NeighbourTable, seeds: RowArray, history: RowArray, n_candidates: int
) -> RowArray:
    """The best neighbours of each request's seeds, best first, [B, C]; -1 for padding.

    A neighbour of several seeds is worth the sum of its scores, each times `SEED_DECAY` to the
    power of the seed's place; what is equal stands in the order of rows. What the history names
    is no candidate, so that the places are not spent on it.

    Args:
        table: of the bundle.
        seeds: newest first, [B, S], -1 for padding.
        history: rows the user has seen, [B, L], in any order, -1 for padding.
    """
    n_requests = len(seeds)
    if not n_requests or not seeds.shape[1] or not table.rows.size:
        return np.full((n_requests, n_candidates), NO_ROW, np.int32)
    rows, weights = _weighted(table, seeds)
    rows = np.concatenate([rows, history], axis=1)  # [B, W]
    weights = np.concatenate([weights, np.full(history.shape, -np.inf, np.float32)], axis=1)
    names, places, is_first = _grouped(rows)
    at = np.flatnonzero(is_first)
    worth = np.full(rows.shape, -np.inf, np.float32)
    worth.ravel()[at] = np.add.reduceat(weights.take(places).ravel(), at)
    best = best_columns(worth, n_candidates)
    requests = np.arange(n_requests)[:, None]
    found = np.full((n_requests, n_candidates), NO_ROW, np.int32)
    is_found = worth[requests, best] > -np.inf
    found[:, : best.shape[1]] = np.where(is_found, names[requests, best], NO_ROW)
    return found


def _grouped(rows: RowArray) -> tuple[RowArray, NDArray[np.int64], NDArray[np.bool_]]:
    """Each request's rows in order, where each stood in `rows.ravel()`, and where a row begins.

    Equal rows stand in the order of their columns, padding at the end.
    """
    columns = np.arange(rows.size, dtype=np.uint64).reshape(rows.shape)
    keys = np.sort((rows.view(np.uint32).astype(np.uint64) << _HALF) | columns, axis=1)
    names = (keys >> _HALF).astype(np.uint32).view(np.int32)
    is_first = np.ones(rows.shape, np.bool_)
    is_first[:, 1:] = names[:, 1:] != names[:, :-1]
    return names, (keys & _LOW_BITS).astype(np.int64), is_first


def _weighted(table: NeighbourTable, seeds: RowArray) -> tuple[RowArray, FloatArray]:
    """Every seed's neighbours and what each is worth, [B, S * M]; -inf for padding."""
    n_requests, n_seeds = seeds.shape
    decay = SEED_DECAY ** np.arange(n_seeds, dtype=np.float32)
    rows = table.rows[seeds]
    weights = table.scores[seeds].astype(np.float32) * decay[:, None]
    no_seed = seeds < 0
    rows[no_seed], weights[no_seed] = NO_ROW, -np.inf
    return rows.reshape(n_requests, -1), weights.reshape(n_requests, -1)
