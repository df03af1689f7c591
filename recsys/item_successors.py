"""What users engaged with after an item: a sparse table, and what it says of candidates.

A mixture of first-order Markov chains over the newest items of a history, weighted by 1 / distance
(sequential rules, Ludewig & Jannach 2018, section 3.1.4). It remembers single pairs that a tower's
vectors have to smooth over. The table is made by `train_app.learning.ranking.count_successors`.
Legend: N items, E entries, B requests, C candidates, L history length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.kernels.log_chances import fill_log_chances
from recsys.types import NO_ROW, FloatArray, RowArray

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

        Raises:
            IndexError: a row is beyond the items it was made for.
        """
        if max(items.max(initial=NO_ROW), candidates.max(initial=NO_ROW)) >= self.n_items:
            raise IndexError(f"a request names an item beyond the {self.n_items} of the successors")
        chances = np.empty(candidates.shape, np.float32)
        fill_log_chances(
            self.offsets,
            self.rows,
            self.shares,
            self.prior,
            np.ascontiguousarray(items, np.int32),
            np.ascontiguousarray(candidates, np.int32),
            REACH,
            _LOOKED_AT,
            _NORMALISER,
            _PRIOR_WEIGHT,
            chances,
        )
        return chances

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
