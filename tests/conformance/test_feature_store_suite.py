"""What every feature store answers its readers, whatever keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from recsys.feature_definitions import (
    BUCKETS_PER_WINDOW,
    NO_COUNTS,
    ItemCounts,
    WindowCounts,
    bucket_of,
    bucket_width_ms,
)
from recsys.stores.features.feature_store import CatalogueView, FeatureStore
from recsys.stores.features.feature_update import FeatureUpdate, FeatureWriter, Ranked
from recsys.types import Item, UserState
from tests.feature_backends import (
    a_deletion,
    a_put,
    a_state,
    store,
)

NOW_MS = 1_790_000_123_456
Filled: TypeAlias = Callable[..., FeatureStore]


def test_a_store_that_nobody_wrote_answers_empty(reader: FeatureStore) -> None:
    """Cold start is an answer, never an error."""
    assert reader.read_users(["u1", "u2"]) == [UserState("u1"), UserState("u2")]
    assert reader.read_users([]) == []
    assert reader.popular(10) == reader.trending(10) == []
    assert reader.neighbours(["a", "b"], 10) == [[], []]
    assert reader.neighbours([], 10) == []
    assert reader.item_counts(["a"], NOW_MS) == [ItemCounts("a", NO_COUNTS)]
    assert reader.catalogue(0) == CatalogueView(0)
    assert reader.offsets() == {}


def test_a_store_with_a_writer_and_no_update_answers_empty(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """What is not stored is empty."""
    assert reader.read_users(["u1"]) == [UserState("u1")]
    assert reader.popular(10) == []
    assert reader.catalogue(0) == CatalogueView(0)
    assert reader.offsets() == {}
    assert writer.offset(0) is None


def test_states_come_in_the_order_asked_for(writer: FeatureWriter, reader: FeatureStore) -> None:
    """Known, unknown and repeated users keep their places, with every id that events allow."""
    longest = "é" * 128
    one, two, three = a_state("u1", 200), a_state("ü\x00: *2", 1), a_state(longest, 3)
    store(writer, FeatureUpdate(0, 1, states=(one, two, three)))
    asked = ["ü\x00: *2", "nobody", "u1", longest, "ü\x00: *2"]
    assert reader.read_users(asked) == [two, UserState("nobody"), one, three, two]


def test_more_users_than_one_query_takes_are_read(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """A large batch is one call for the caller."""
    states = tuple(a_state(f"u{n}", n % 3) for n in range(1500))
    store(writer, FeatureUpdate(0, 1, states=states))
    assert reader.read_users([state.user_id for state in states]) == list(states)


def test_popular_is_the_live_list_and_before_there_is_one_the_imported(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Most popular first, cut at the limit, scores with it."""
    writer.write_popular("import", [("old", 4), ("older", 2)])
    assert reader.popular(10) == [("old", 4.0), ("older", 2.0)]
    writer.write_popular("live", [("a", 9), ("b", 9), ("c", 0.5)])
    assert reader.popular(2) == [("a", 9.0), ("b", 9.0)]
    assert reader.popular(10) == [("a", 9.0), ("b", 9.0), ("c", 0.5)]
    writer.write_popular("live", [("c", 1)])
    assert reader.popular(10) == [("c", 1.0)]
    writer.write_popular("live", [])
    assert reader.popular(10) == [("old", 4.0), ("older", 2.0)]


def test_trending_is_what_was_written_last(writer: FeatureWriter, reader: FeatureStore) -> None:
    """Best first, cut at the limit."""
    writer.write_trending([("a", 3.5), ("b", 1.25)])
    writer.write_trending([("ü", 7.0), ("b", 1.25)])
    assert reader.trending(1) == [("ü", 7.0)]
    assert reader.trending(9) == [("ü", 7.0), ("b", 1.25)]


def test_neighbours_come_in_the_order_asked_for(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Items without any have an empty list."""
    pairs = {(1, "a", "a"): 1, (1, "ü:b", "ü:b"): 1}
    store(writer, FeatureUpdate(0, 1, pair_counts=pairs))
    ranked: dict[str, Ranked] = {"a": [("x", 0.5), ("y", 0.25)], "ü:b": [("a", 1.0)]}
    assert writer.refresh_neighbours(10, 0, lambda _: ranked) == 2
    assert reader.neighbours(["ü:b", "z", "a", "a"], 1) == [
        [("a", 1.0)],
        [],
        [("x", 0.5)],
        [("x", 0.5)],
    ]


def test_item_counts_are_summed_over_partitions_and_the_buckets_of_each_window(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Buckets before the window and after now do not count."""
    hour, day = 3600, 86_400
    now_hour, now_day = bucket_of(NOW_MS, hour), bucket_of(NOW_MS, day)
    oldest = now_hour - (BUCKETS_PER_WINDOW - 1) * bucket_width_ms(hour)
    first = {
        (hour, now_hour, "ü:a"): (2, 1),
        (hour, oldest, "ü:a"): (10, 0),
        (hour, oldest - bucket_width_ms(hour), "ü:a"): (100, 100),
        (hour, now_hour + bucket_width_ms(hour), "ü:a"): (1000, 1000),
        (day, now_day, "ü:a"): (0, 5),
        (day, now_day, "b"): (7, 0),
    }
    store(writer, FeatureUpdate(0, 1, item_counts=first))
    store(writer, FeatureUpdate(3, 1, item_counts={(hour, now_hour, "ü:a"): (4, 3)}))
    counts = reader.item_counts(["b", "nothing", "ü:a", "b"], NOW_MS)
    of_b = ItemCounts("b", WindowCounts((0, 0, 7), (0, 0, 0)))
    assert counts == [
        of_b,
        ItemCounts("nothing", NO_COUNTS),
        ItemCounts("ü:a", WindowCounts((0, 16, 0), (0, 4, 5))),
        of_b,
    ]


def test_a_deleted_item_is_blocked_until_it_is_put_again(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """The newest change of an item holds."""
    changes = (a_put("a"), a_put("b"), a_deletion("a"), a_deletion("c"))
    store(writer, FeatureUpdate(0, 1, catalogue=changes))
    view = reader.catalogue(0)
    assert view.version == 4
    assert view.blocked == {"a", "c"}
    assert [item.item_id for item in view.items] == ["b"]
    store(writer, FeatureUpdate(1, 1, catalogue=(a_put("a", "new"),)))
    again = reader.catalogue(view.version)
    assert (again.version, again.blocked) == (5, {"c"})
    assert [(item.item_id, item.title) for item in again.items] == [("a", "new")]


def test_items_come_with_all_their_fields(writer: FeatureWriter, reader: FeatureStore) -> None:
    """What was put is what is read."""
    store(writer, FeatureUpdate(0, 1, catalogue=(a_put("a", "Ünïcode"),)))
    assert reader.catalogue(0).items == (Item("a", "Ünïcode", ("drama", "ü"), "somebody", -5),)


def test_a_poller_gets_only_the_items_put_since(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Blocked items are always all of them, put items only the new ones, oldest change first."""
    changes = (a_put("a"), a_deletion("b"), a_put("c"), a_put("a", "again"))
    store(writer, FeatureUpdate(0, 1, catalogue=changes))
    assert [item.item_id for item in reader.catalogue(0).items] == ["c", "a"]
    assert [item.item_id for item in reader.catalogue(3).items] == ["a"]
    caught_up = reader.catalogue(4)
    assert (caught_up.version, caught_up.items, caught_up.blocked) == (4, (), {"b"})
    assert [item.item_id for item in reader.catalogue(0).items] == ["c", "a"]


def test_many_items_are_read_whole(writer: FeatureWriter, reader: FeatureStore) -> None:
    """A catalogue is larger than one query."""
    changes = tuple(a_put(f"i{n}") for n in range(1300))
    store(writer, FeatureUpdate(0, 1, catalogue=changes))
    assert [item.item_id for item in reader.catalogue(0).items] == [f"i{n}" for n in range(1300)]


def test_offsets_tell_what_is_reflected(writer: FeatureWriter, reader: FeatureStore) -> None:
    """Lag is the log's end less these."""
    store(writer, FeatureUpdate(0, 17))
    store(writer, FeatureUpdate(3, 2))
    store(writer, FeatureUpdate(0, 18))
    assert reader.offsets() == {0: 18, 3: 2}


def test_a_closed_reader_opens_again(writer: FeatureWriter, reader: FeatureStore) -> None:
    """Closing gives back what is held, no more."""
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 2),)))
    assert reader.read_users(["u1"]) == [a_state("u1", 2)]
    reader.close()
    assert reader.read_users(["u1"]) == [a_state("u1", 2)]
