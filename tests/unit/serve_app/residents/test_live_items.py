"""What changes about items while a bundle stays, as the request path finds it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.item_table import ItemTable, write_item_table
from recsys.errors import StoreError
from recsys.settings import RetrievalSettings
from recsys.stores.features.feature_store import CatalogueView, NeighbourChanges, NeighbourMark
from recsys.types import Item
from serve_app.residents.live_items import LiveItems


@dataclass
class Store:
    """A feature store in memory, parts of which may be away."""

    view: CatalogueView = field(default_factory=lambda: CatalogueView(0))
    lists: dict[str, list[tuple[str, float]]] = field(default_factory=dict)
    is_catalogue_away: bool = False
    are_neighbours_away: bool = False

    def catalogue(self, since_version: int) -> CatalogueView:
        if self.is_catalogue_away:
            raise StoreError("the catalogue is away")
        return self.view

    def popular(self, limit: int) -> list[tuple[str, float]]:
        return [("i3", 2.0), ("i2", 1.0)][:limit]

    def trending(self, limit: int) -> list[tuple[str, float]]:
        return [("i2", 3.0)][:limit]

    def changed_neighbours(
        self, since: NeighbourMark, limit: int, max_lists: int
    ) -> NeighbourChanges:
        if self.are_neighbours_away:
            raise StoreError("the neighbours cannot be read")
        return NeighbourChanges(NeighbourMark("one", 1), self.lists, not since.store)


@pytest.fixture
def items(tmp_path: Path) -> ItemTable:
    """Five items."""
    write_item_table(tmp_path, [Item(f"i{n}") for n in range(5)], np.ones(5, np.float32))
    return ItemTable.read(tmp_path)


def live_of(store: Store) -> LiveItems:
    """The live items of a store in memory."""
    return LiveItems(store, 100, RetrievalSettings())  # type: ignore[arg-type]


def test_items_are_taken_out_though_the_neighbours_cannot_be_read(items: ItemTable) -> None:
    """The neighbours stay as they were, and follow when they can be read again."""
    store = Store(lists={"i0": [("i1", 0.5)]})
    live = live_of(store)
    live.refresh([("b", items)])
    before = live.rows("b", items)
    store.view, store.are_neighbours_away = CatalogueView(1, frozenset({"i2"})), True
    live.refresh([("b", items)])
    rows = live.rows("b", items)
    assert rows.blocked.tolist() == [False, False, True, False, False]
    assert 2 not in rows.popular
    assert rows.trending.tolist() == []
    assert rows.neighbours is before.neighbours is not None
    store.lists, store.are_neighbours_away = {"i0": [("i4", 0.5)]}, False
    live.refresh([("b", items)])
    renewed = live.rows("b", items).neighbours
    assert renewed is not None
    assert renewed.rows[0, 0] == 4


def test_everything_stays_while_the_catalogue_cannot_be_read(items: ItemTable) -> None:
    """Also what was taken out."""
    store = Store(CatalogueView(1, frozenset({"i2"})))
    live = live_of(store)
    live.refresh([("b", items)])
    before = live.rows("b", items)
    store.view, store.is_catalogue_away = CatalogueView(2), True
    live.refresh([("b", items)])
    assert live.rows("b", items) is before
    assert before.blocked.tolist() == [False, False, True, False, False]


def test_a_store_made_anew_may_come_to_the_same_version(items: ItemTable) -> None:
    """What it says is taken out counts all the same; without a change the rows stay."""
    store = Store(CatalogueView(1, frozenset({"i2"})))
    live = live_of(store)
    live.refresh([("b", items)])
    before = live.rows("b", items)
    live.refresh([("b", items)])
    assert live.rows("b", items) is before
    store.view = CatalogueView(1, frozenset({"i3"}))
    live.refresh([("b", items)])
    assert live.rows("b", items).blocked.tolist() == [False, False, False, True, False]
