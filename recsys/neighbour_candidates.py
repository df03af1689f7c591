"""The neighbours of what a user engaged with last, as candidates: item-to-item over a whole batch.

Knows neither stores nor what neighbours are made of. Legend: S seeds per request, M neighbours
kept per item.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features import FIRST_KIND
from recsys.kernels.neighbours import fill_neighbours, fill_seeds
from recsys.types import NO_ROW, Batch, RowArray

SEED_DECAY = 0.85
"""What a seed's neighbours weigh against those of the next newer seed."""


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
    items = np.ascontiguousarray(history["items"])
    seeds = np.full((len(items), n_seeds), NO_ROW, np.int32)
    fill_seeds(items, np.ascontiguousarray(history["kinds"]), is_seed_kind, seeds)
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
    found = np.full((len(seeds), n_candidates), NO_ROW, np.int32)
    if not seeds.size or not table.rows.size:
        return found
    rows = table.rows[seeds]  # [B, S, M]
    rows[seeds < 0] = NO_ROW
    scores = table.scores[seeds].astype(np.float32)
    weights = SEED_DECAY ** np.arange(seeds.shape[1], dtype=np.float32)
    fill_neighbours(rows, scores, weights, np.ascontiguousarray(history), found)
    return found
