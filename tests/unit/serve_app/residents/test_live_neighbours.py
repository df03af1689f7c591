"""Neighbour tables of resident bundles: in step with the store, read in parts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.item_table import ItemTable, write_item_table
from recsys.errors import StoreError
from recsys.stores.features.feature_store import NeighbourChanges, NeighbourMark
from recsys.types import Item
from serve_app.residents import live_neighbours
from serve_app.residents.live_neighbours import LiveNeighbours


class Lists:
    """The neighbours of a store in memory, and how often somebody read them."""

    def __init__(self) -> None:
        self.name = "one"
        self.changes: list[tuple[str, list[tuple[str, float]]]] = []
        self.is_away = False
        self.asked: list[NeighbourMark] = []

    def changed_neighbours(
        self, since: NeighbourMark, limit: int, max_lists: int
    ) -> NeighbourChanges:
        if self.is_away:
            raise StoreError("feature store is away")
        self.asked.append(since)
        is_anew = since.store != self.name
        first = 0 if is_anew else since.version
        lists = dict(self.changes[first : first + max_lists])
        last = min(first + max_lists, len(self.changes))
        mark = NeighbourMark(self.name, last)
        return NeighbourChanges(mark, lists, is_anew, last == len(self.changes))


@pytest.fixture
def items(tmp_path: Path) -> ItemTable:
    """Six items."""
    catalogue = [Item(f"i{n}") for n in range(6)]
    write_item_table(tmp_path, catalogue, np.ones(6, np.float32))
    return ItemTable.read(tmp_path)


def rows_of(live: LiveNeighbours, bundle_id: str = "b1") -> list[list[int]]:
    """The served neighbours of every item, without padding."""
    table = live.table(bundle_id)
    assert table is not None
    return [[row for row in own if row >= 0] for own in table.rows.tolist()]


def live_of(lists: Lists, n_kept: int = 2) -> LiveNeighbours:
    """The tables of a store in memory."""
    return LiveNeighbours(lists, n_kept)  # type: ignore[arg-type]


def test_lists_are_kept_in_the_rows_of_the_bundle(items: ItemTable) -> None:
    """Without what the bundle does not know; changed lists replace what was there."""
    lists = Lists()
    lists.changes = [("i1", [("i3", 0.5), ("new", 0.4), ("i0", 0.3)]), ("new", [("i1", 0.5)])]
    live = live_of(lists, n_kept=3)
    live.refresh({"b1": items})
    assert rows_of(live) == [[], [3, 0], [], [], [], []]
    table = live.table("b1")
    assert table is not None
    assert table.scores[1].tolist() == pytest.approx([0.5, -np.inf, 0.3], abs=1e-3)
    lists.changes += [("i1", []), ("i2", [("i5", 0.9)])]
    live.refresh({"b1": items})
    assert rows_of(live) == [[], [], [5], [], [], []]
    assert table.rows[1, 0] == 3


def test_what_did_not_change_is_the_same_table(items: ItemTable) -> None:
    """And two bundles read once."""
    lists = Lists()
    lists.changes = [("i1", [("i3", 0.5)])]
    live = live_of(lists)
    live.refresh({"b1": items, "b2": items})
    before = live.table("b1")
    live.refresh({"b1": items, "b2": items})
    assert live.table("b1") is before
    assert len(lists.asked) == 2
    live.refresh({"b2": items})
    assert live.table("b1") is None
    assert rows_of(live, "b2")[1] == [3]


def test_a_large_store_is_read_in_parts(items: ItemTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a store made anew nothing is served before all is read: what was known before is."""
    monkeypatch.setattr(live_neighbours, "MAX_LISTS_PER_REFRESH", 2)
    lists = Lists()
    lists.changes = [(f"i{n}", [(f"i{(n + 1) % 6}", 0.5)]) for n in range(5)]
    live = live_of(lists)
    whole = [[1], [2], [3], [4], [5], []]
    for n_read in (2, 4, 5):
        live.refresh({"b1": items})
        assert rows_of(live) == [*whole[:n_read], *([] for _ in whole[n_read:])]
    lists.name, lists.changes = "two", [(f"i{n}", [("i0", 0.5)]) for n in (5, 4, 3)]
    live.refresh({"b1": items})
    assert rows_of(live) == [[1], [2], [3], [4], [5], []]
    live.refresh({"b1": items})
    assert rows_of(live) == [[], [], [], [0], [0], [0]]


def test_a_store_that_is_away_leaves_the_tables(items: ItemTable) -> None:
    """The caller is told."""
    lists = Lists()
    lists.changes = [("i1", [("i3", 0.5)])]
    live = live_of(lists)
    live.refresh({"b1": items})
    lists.is_away = True
    with pytest.raises(StoreError):
        live.refresh({"b1": items})
    assert rows_of(live)[1] == [3]


def test_a_source_that_is_off_reads_nothing(items: ItemTable) -> None:
    """No list is asked for."""
    lists = Lists()
    live = live_of(lists, n_kept=0)
    live.refresh({"b1": items})
    assert (live.table("b1"), lists.asked) == (None, [])
