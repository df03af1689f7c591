"""What users engaged with after an item: a sparse table, and what it says of candidates.

A mixture of first-order Markov chains over the newest items of a history, weighted by 1 / distance
(sequential rules, Ludewig & Jannach 2018, section 3.1.4). It remembers single pairs that a tower's
vectors have to smooth over. The table is made by `train_app.learning.ranking.count_successors`.
Legend: N items, E entries, B requests, C candidates, L history length.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.types import FloatArray, RowArray

REACH = 10
"""So many items on, and so many items back, one is a successor of the other."""
_LOOKED_AT = 2 * REACH
"""Newest events among which the newest different items are found."""
_PRIOR_WEIGHT = 0.2
"""Of an item's general share beside the share that followed the history."""
_NORMALISER = sum(1.0 / distance for distance in range(1, REACH + 1))
_ARRAYS = ("offsets", "rows", "shares", "prior")


@dataclass(frozen=True, slots=True)
class ItemSuccessors:
    """For every item the items that followed it most, as compressed rows."""

    offsets: NDArray[np.int64]  # [N + 1] where an item's successors begin
    rows: RowArray  # [E]
    shares: FloatArray  # [E] of all that followed the item, nearer ones weighing more
    prior: FloatArray  # [N] share of the item among all successors, above 0

    @property
    def n_items(self) -> int:
        """Items it was made for."""
        return len(self.prior)

    def log_chances(self, items: RowArray, candidates: RowArray) -> FloatArray:
        """Log of the chance [B, C] that a candidate comes next, by the newest items alone.

        Args:
            items: [B, L] histories, oldest first, -1 is padding.
            candidates: [B, C] rows, -1 is padding.
        """
        n_candidates = candidates.shape[1]
        chances = np.zeros(candidates.shape, np.float64)
        for request, (history, rows) in enumerate(zip(items, candidates, strict=True)):
            entries, weights = self._followed(history)
            is_row = rows >= 0
            columns, own = _columns_of(self.rows[entries], rows, is_row, self.n_items)
            hit = columns >= 0
            found = weights[hit] * self.shares[entries[hit]]
            chances[request, is_row] = np.bincount(columns[hit], found, n_candidates)[own]
        prior = self.prior[np.maximum(candidates, 0)]
        return np.log(chances / _NORMALISER + _PRIOR_WEIGHT * prior).astype(np.float32)

    def _followed(self, history: RowArray) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Entries of the newest different items of one history, each with its item's weight."""
        newest = [row for row in history[: -_LOOKED_AT - 1 : -1].tolist() if row >= 0]
        distinct = np.array(list(dict.fromkeys(newest))[:REACH], np.int64)
        begins, sizes = self.offsets[distinct], np.diff(self.offsets)[distinct]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        weights = 1.0 / np.arange(1, len(distinct) + 1)
        return np.repeat(begins, sizes) + within, np.repeat(weights, sizes)

    def in_order(self, own_rows: NDArray[np.int64]) -> ItemSuccessors:
        """The table for another list of items.

        Args:
            own_rows: [M] for each item of that list its row here, -1 where it is not known here.
        """
        n_items = len(own_rows)
        is_known = own_rows >= 0
        new_row = np.full(self.n_items, -1, np.int32)
        new_row[own_rows[is_known]] = np.flatnonzero(is_known)
        sizes = np.where(is_known, np.diff(self.offsets)[np.maximum(own_rows, 0)], 0)
        owner = np.repeat(np.arange(n_items), sizes)
        within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        entries = self.offsets[np.maximum(own_rows, 0)][owner] + within
        rows = new_row[self.rows[entries]]
        is_kept = rows >= 0
        counts = np.bincount(owner[is_kept], minlength=n_items)
        prior = np.where(is_known, self.prior[np.maximum(own_rows, 0)], self.prior.min(initial=1.0))
        return ItemSuccessors(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows[is_kept],
            self.shares[entries[is_kept]],
            prior.astype(np.float32),
        )

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The table by name, for a file."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], n_items: int) -> ItemSuccessors:
        """The table of so many items that `arrays` named.

        Raises:
            ValueError: an array is missing, or they do not fit one another.
        """
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise ValueError(f"successors lack {', '.join(missing)}")
        offsets = arrays["offsets"].astype(np.int64, copy=False)
        table = cls(
            offsets,
            arrays["rows"].astype(np.int32, copy=False),
            arrays["shares"].astype(np.float32, copy=False),
            arrays["prior"].astype(np.float32, copy=False),
        )
        n_entries = len(table.rows)
        is_sound = (
            len(offsets) == n_items + 1 == table.n_items + 1
            and offsets[0] == 0
            and offsets[-1] == n_entries == len(table.shares)
            and bool((np.diff(offsets) >= 0).all())
            and (n_entries == 0 or (table.rows.min() >= 0 and table.rows.max() < n_items))
        )
        if not is_sound:
            raise ValueError(
                f"successors of {n_items} items hold {n_entries} entries that do not fit them"
            )
        return table


_scratch = threading.local()
"""Per thread one array that is -1 everywhere between two uses: a catalogue may have millions of
items, and a request touches hundreds."""


def _columns_of(
    wanted: RowArray, rows: RowArray, is_row: NDArray[np.bool_], n_items: int
) -> tuple[RowArray, RowArray]:
    """The place of every wanted row among `rows`, -1 where it is none, and of each row that is one.

    A row that is there more than once has one place, for all of its copies.
    """
    column_of: RowArray | None = getattr(_scratch, "column_of", None)
    if column_of is None or len(column_of) < n_items:
        column_of = _scratch.column_of = np.full(n_items, -1, np.int32)
    own = rows[is_row]
    column_of[own] = np.flatnonzero(is_row)
    places = column_of[wanted], column_of[own]
    column_of[own] = -1
    return places
