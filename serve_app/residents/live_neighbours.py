"""Which items go together, in the rows of each resident bundle: read in the background.

A bundle's table is 6 bytes times `retrieval.n_neighbours` per item, 24 MB at 200,000 items and 20
neighbours, and twice that while one is replaced. Only lists that changed are read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.bundles.item_table import ItemTable
from recsys.neighbour_candidates import NeighbourTable
from recsys.stores.features.feature_store import (
    NOTHING_READ,
    FeatureStore,
    NeighbourChanges,
    NeighbourMark,
)
from recsys.types import NO_ROW

MAX_LISTS_PER_REFRESH = 2_000
"""A twentieth of a second's work, so that reading a large store does not hold up requests."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """How far the store was read for one bundle."""

    mark: NeighbourMark = NOTHING_READ
    read: NeighbourTable | None = None
    """What was read up to the mark; None where nobody has neighbours."""
    before: NeighbourTable | None = None
    """What is served until a store that was made anew is read."""

    @property
    def served(self) -> NeighbourTable | None:
        """The best there is."""
        return self.read if self.before is None else self.before


class LiveNeighbours:
    """The neighbour tables of the resident bundles.

    Args:
        n_kept: neighbours kept per item; 0 reads nothing.
    """

    def __init__(self, features: FeatureStore, n_kept: int) -> None:
        self._features = features
        self._n_kept = n_kept
        self._readings: dict[str, _Reading] = {}

    def table(self, bundle_id: str) -> NeighbourTable | None:
        """The neighbours in a bundle's rows; None until the background has read some."""
        return self._readings.get(bundle_id, _Reading()).served

    def refresh(self, bundles: Mapping[str, ItemTable]) -> None:
        """Read on for these bundles and give the others' tables up.

        Raises:
            StoreError: the store is away; tables stay as they are.
        """
        if not self._n_kept:
            return
        readings = {name: self._readings.get(name, _Reading()) for name in bundles}
        for mark in {reading.mark for reading in readings.values()}:
            changes = self._features.changed_neighbours(mark, self._n_kept, MAX_LISTS_PER_REFRESH)
            for name, reading in readings.items():
                if reading.mark == mark:
                    readings[name] = _read_on(reading, changes, bundles[name], self._n_kept)
        self._readings = readings


def _read_on(
    reading: _Reading, changes: NeighbourChanges, items: ItemTable, n_kept: int
) -> _Reading:
    read = None if changes.is_anew else reading.read
    known = [(items.row_of[i], changes.lists[i]) for i in changes.lists if i in items.row_of]
    if known:
        read = _with_lists(read or NeighbourTable.empty(len(items), n_kept), known, items, n_kept)
    before = reading.served if changes.is_anew else reading.before
    return _Reading(changes.mark, read, None if changes.is_all else before)


def _with_lists(
    table: NeighbourTable,
    known: Sequence[tuple[int, Sequence[tuple[str, float]]]],
    items: ItemTable,
    n_kept: int,
) -> NeighbourTable:
    get = items.row_of.get
    lists = [ranked[:n_kept] for _, ranked in known]
    lengths = np.fromiter(map(len, lists), np.int32, len(lists))
    is_filled = np.arange(n_kept) < lengths[:, None]
    changed = NeighbourTable.empty(len(known), n_kept)
    changed.rows[is_filled] = [get(other, NO_ROW) for ranked in lists for other, _ in ranked]
    changed.scores[is_filled] = [score for ranked in lists for _, score in ranked]
    changed.scores[changed.rows < 0] = -np.inf
    return table.replaced(np.asarray([row for row, _ in known], np.int32), changed)
