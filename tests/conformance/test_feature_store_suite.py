"""What every feature store answers, whatever keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import pytest

from recsys.events import CatalogueChange
from recsys.stores.feature_store import CatalogueView, FeatureStore, SqliteFeatureStore
from recsys.stores.feature_tables import FeatureUpdate, FeatureWriter
from recsys.types import HistoryEvent, Item, UserState
from tests.fakes_features import MemoryFeatureStore

Filled: TypeAlias = Callable[
    [Sequence[UserState], Sequence[tuple[str, int]], Sequence[CatalogueChange], Mapping[int, int]],
    FeatureStore,
]


def in_memory(
    states: Sequence[UserState],
    popular: Sequence[tuple[str, int]],
    catalogue: Sequence[CatalogueChange],
    offsets: Mapping[int, int],
) -> FeatureStore:
    """A store in memory with this content."""
    return MemoryFeatureStore(states, [(i, float(n)) for i, n in popular], catalogue, offsets)


@pytest.fixture(params=["sqlite", "memory"])
def filled(request: pytest.FixtureRequest, tmp_path: Path) -> Filled:
    """Makes a store of each implementation with the content it is given."""
    if request.param == "memory":
        return in_memory

    def on_disk(
        states: Sequence[UserState],
        popular: Sequence[tuple[str, int]],
        catalogue: Sequence[CatalogueChange],
        offsets: Mapping[int, int],
    ) -> FeatureStore:
        writer = FeatureWriter(tmp_path / "features.sqlite")
        with writer.transaction():
            writer.apply(
                FeatureUpdate(
                    states=tuple(states), catalogue=tuple(catalogue), next_offsets=offsets
                )
            )
            writer.write_popular("live", popular)
        writer.close()
        return SqliteFeatureStore(tmp_path / "features.sqlite")

    return on_disk


def a_state(user_id: str, n_events: int) -> UserState:
    """A user with some history."""
    history = tuple(HistoryEvent(f"i{n}", "click", 1000 + n) for n in range(n_events))
    return UserState(user_id, history, version=n_events)


def a_put(item_id: str, title: str = "") -> CatalogueChange:
    """An item put into the catalogue."""
    return CatalogueChange(
        event_id=f"put-{item_id}-{title}",
        item_id=item_id,
        timestamp_ms=1,
        title=title,
        categories=("drama", "ü"),
        creator="somebody",
        created_ms=-5,
    )


def a_deletion(item_id: str) -> CatalogueChange:
    """An item taken out of the catalogue."""
    return CatalogueChange(event_id=f"del-{item_id}", item_id=item_id, timestamp_ms=2, deleted=True)


def test_an_empty_store_answers_empty(filled: Filled) -> None:
    """Cold start is an answer, never an error."""
    store = filled([], [], [], {})
    assert store.read_users(["u1", "u2"]) == [UserState("u1"), UserState("u2")]
    assert store.popular(10) == []
    assert store.catalogue(0) == CatalogueView(0)
    assert store.offsets() == {}
    assert store.read_users([]) == []


def test_states_come_in_the_order_asked_for(filled: Filled) -> None:
    """Known, unknown and repeated users keep their places."""
    one, two = a_state("u1", 200), a_state("ü\x002", 1)
    store = filled([one, two], [], [], {})
    asked = ["ü\x002", "nobody", "u1", "ü\x002"]
    assert store.read_users(asked) == [two, UserState("nobody"), one, two]


def test_more_users_than_one_query_takes_are_read(filled: Filled) -> None:
    """A large batch is one call for the caller."""
    states = [a_state(f"u{n}", n % 3) for n in range(1500)]
    store = filled(states, [], [], {})
    assert store.read_users([state.user_id for state in states]) == states


def test_popular_is_cut_at_the_limit(filled: Filled) -> None:
    """Most popular first, scores with it."""
    store = filled([], [("a", 9), ("b", 9), ("c", 1)], [], {})
    assert store.popular(2) == [("a", 9.0), ("b", 9.0)]
    assert store.popular(10) == [("a", 9.0), ("b", 9.0), ("c", 1.0)]


def test_a_deleted_item_is_blocked_until_it_is_put_again(filled: Filled) -> None:
    """The newest change of an item holds."""
    store = filled([], [], [a_put("a"), a_put("b"), a_deletion("a"), a_deletion("c")], {})
    view = store.catalogue(0)
    assert view.version == 4
    assert view.blocked == {"a", "c"}
    assert [item.item_id for item in view.items] == ["b"]
    again = filled([], [], [a_put("a"), a_deletion("a"), a_put("a", "new")], {})
    assert "a" not in again.catalogue(0).blocked


def test_items_come_with_all_their_fields(filled: Filled) -> None:
    """What was put is what is read."""
    store = filled([], [], [a_put("a", "Ünïcode")], {})
    assert store.catalogue(0).items == (Item("a", "Ünïcode", ("drama", "ü"), "somebody", -5),)


def test_a_poller_gets_only_the_items_put_since(filled: Filled) -> None:
    """Blocked items are always all of them, put items only the new ones."""
    changes = [a_put("a"), a_deletion("b"), a_put("c"), a_put("a", "again")]
    store = filled([], [], changes, {})
    assert [item.item_id for item in store.catalogue(0).items] == ["c", "a"]
    assert [item.item_id for item in store.catalogue(3).items] == ["a"]
    caught_up = store.catalogue(4)
    assert (caught_up.version, caught_up.items, caught_up.blocked) == (4, (), {"b"})


def test_offsets_tell_what_is_reflected(filled: Filled) -> None:
    """Lag is the log's end less these."""
    assert filled([], [], [], {0: 17, 3: 2}).offsets() == {0: 17, 3: 2}
