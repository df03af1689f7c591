"""What events do to histories and to the popular window, as rules and as properties."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import CatalogueChange, Engagement, Impression, encode_event
from recsys.stores.event_log import LogRecord
from recsys.types import HistoryEvent, UserState
from train_app.following.feature_fold import (
    DecodedRecords,
    FoldRules,
    PopularWindow,
    add_engagements,
    decode_records,
    fold_events,
    merge_imported,
)

NOW_MS = 1_790_000_000_000
RULES = FoldRules(history_limit=5, window_ms=86_400_000, negative_kinds=frozenset({"dismiss"}))


def an_engagement(
    item_id: str = "i1", timestamp_ms: int = NOW_MS, user_id: str = "u1", kind: str = "click"
) -> Engagement:
    """A click, received when it happened."""
    return Engagement(
        event_id=f"{user_id}-{item_id}-{timestamp_ms}",
        kind=kind,
        user_id=user_id,
        item_id=item_id,
        timestamp_ms=timestamp_ms,
        received_at_ms=timestamp_ms,
        origin="api",
    )


def decoded(*engagements: Engagement) -> DecodedRecords:
    """A batch of nothing but engagements."""
    return DecodedRecords(engagements, (), {}, ())


def items(state: UserState) -> list[str]:
    """The item ids of a history, oldest first."""
    return [event.item_id for event in state.history]


def test_a_late_event_takes_its_place_in_time() -> None:
    """History is in order of event time, not of arrival."""
    events = [an_engagement("a", 10), an_engagement("c", 30), an_engagement("b", 20)]
    assert items(add_engagements(UserState("u1"), events, limit=5)) == ["a", "b", "c"]


def test_equal_times_keep_the_order_of_arrival() -> None:
    """The later arrival counts as newer."""
    events = [an_engagement(item, 10) for item in "cab"]
    assert items(add_engagements(UserState("u1"), events, limit=5)) == ["c", "a", "b"]
    assert items(add_engagements(UserState("u1"), events, limit=2)) == ["a", "b"]


def test_a_full_history_keeps_the_newest() -> None:
    """An event older than a full history changes nothing, not even the version."""
    full = add_engagements(UserState("u1"), [an_engagement(f"i{n}", n) for n in range(9)], limit=5)
    assert items(full) == ["i4", "i5", "i6", "i7", "i8"]
    assert add_engagements(full, [an_engagement("late", 3)], limit=5) is full
    assert items(add_engagements(full, [an_engagement("new", 6)], limit=5))[0] == "i5"


def test_every_kind_is_kept_but_a_dismissal_makes_nothing_popular() -> None:
    """A dislike is a signal for the user tower and no vote for the item."""
    batch = decoded(an_engagement("a", kind="dismiss"), an_engagement("b", kind="purchase"))
    update = fold_events(batch, {}, 0, RULES)
    assert [event.kind for event in update.states[0].history] == ["dismiss", "purchase"]
    assert [item_id for _, item_id in update.live_counts] == ["b"]


def test_an_event_older_than_the_window_is_history_but_not_popular() -> None:
    """Imported or replayed acts of years ago do not count as popular now."""
    batch = decoded(an_engagement("new"), an_engagement("old", NOW_MS - 400 * 86_400_000))
    update = fold_events(batch, {}, 0, RULES)
    assert items(update.states[0]) == ["old", "new"]
    assert [item_id for _, item_id in update.live_counts] == ["new"]


def test_the_window_ends_at_the_newest_event() -> None:
    """Counts leave the window as events of a later time arrive."""
    window = PopularWindow()
    first = fold_events(decoded(an_engagement("a"), an_engagement("a", NOW_MS + 1)), {}, 0, RULES)
    window.advance(first)
    assert window.top(5) == [("a", 2)]
    later = NOW_MS + RULES.window_ms + 2 * RULES.bucket_ms
    window.advance(fold_events(decoded(an_engagement("b", later)), {}, first.newest_ms, RULES))
    assert window.top(5) == [("b", 1)]


def test_equally_popular_items_come_in_order_of_their_ids() -> None:
    """The list is the same after every restart."""
    window = PopularWindow([(0, "b", 1), (0, "a", 1), (1, "c", 2)])
    assert window.top(2) == [("c", 2), ("a", 1)]


def test_records_that_are_no_events_are_set_aside_with_the_reason() -> None:
    """A bad record never stops the ones behind it."""
    future = an_engagement("f")
    values = [
        b"no json",
        b'{"type":"engagement"}',
        b'{"type":"unheard"}',
        b"[" * 10_000,
        b'{"type":"engagement","user_id":"\xff"}',
        encode_event(
            Engagement(**{**{f: getattr(future, f) for f in future.__struct_fields__},
                          "timestamp_ms": NOW_MS + 7_200_000})
        ),
        encode_event(an_engagement("good")),
    ]  # fmt: skip
    found = decode_records(LogRecord(0, n, f"e{n}", value) for n, value in enumerate(values))
    assert [event.item_id for event in found.engagements] == ["good"]
    assert [record.offset for record, _ in found.bad] == [0, 1, 2, 3, 4, 5]
    assert all(reason for _, reason in found.bad)
    assert found.next_offsets == {0: 7}


def test_served_slates_move_the_offset_and_nothing_else() -> None:
    """Impressions are most of the log and no feature."""
    impression = Impression(
        event_id="e", request_id="r", user_id="u", timestamp_ms=1, bundle_id="b", variant="stable",
        slate=(),
    )  # fmt: skip
    change = CatalogueChange(event_id="c", item_id="i", timestamp_ms=1)
    records = [
        LogRecord(1, 4, "e", encode_event(impression)),
        LogRecord(1, 5, "c", encode_event(change)),
    ]
    found = decode_records(records)
    assert (found.engagements, found.catalogue, found.bad) == ((), (change,), ())
    assert found.next_offsets == {1: 6}


def test_importing_the_same_history_twice_changes_nothing() -> None:
    """Also with more events than are kept, all at one time."""
    imported = [HistoryEvent(f"i{n}", "view", 7) for n in range(12)]
    once, added = merge_imported(UserState("u1"), imported, limit=5)
    assert (items(once), len(added)) == (["i7", "i8", "i9", "i10", "i11"], 5)
    assert merge_imported(once, imported, limit=5) == (once, [])


def test_an_import_merges_with_live_history() -> None:
    """Events known from both sides count once; the live ones stay."""
    live = add_engagements(UserState("u1"), [an_engagement("live", 20)], limit=5)
    imported = [HistoryEvent("old", "view", 10), HistoryEvent("live", "click", 20)]
    merged, added = merge_imported(live, imported, limit=5)
    assert items(merged) == ["old", "live"]
    assert added == [HistoryEvent("old", "view", 10)]
    assert merged.version > live.version


_engagements = st.lists(
    st.builds(
        an_engagement,
        item_id=st.sampled_from("abc"),
        timestamp_ms=st.integers(NOW_MS, NOW_MS + 3 * RULES.window_ms),
        user_id=st.sampled_from(["u1", "u2"]),
        kind=st.sampled_from(["click", "dismiss"]),
    ),
    max_size=30,
)


def folded(batches: list[list[Engagement]]) -> tuple[dict[str, UserState], list[tuple[str, int]]]:
    """States and popular list after these batches, one after the other."""
    states: dict[str, UserState] = {}
    window = PopularWindow()
    newest_ms = 0
    for batch in batches:
        update = fold_events(decoded(*batch), states, newest_ms, RULES)
        states.update({state.user_id: state for state in update.states})
        window.advance(update)
        newest_ms = update.newest_ms
    return states, window.top(10)


@settings(deadline=None, max_examples=50)
@given(events=_engagements, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_any_split_into_batches_gives_the_same_features(
    events: list[Engagement], cuts: list[int]
) -> None:
    """So a restart at any record ends in the same store."""
    bounds = [0, *sorted(min(cut, len(events)) for cut in cuts), len(events)]
    batches = [events[a:b] for a, b in pairwise(bounds)]
    assert folded(batches) == folded([events])


@settings(deadline=None, max_examples=50)
@given(events=_engagements)
def test_a_history_is_the_newest_events_in_order(events: list[Engagement]) -> None:
    """Equal to sorting everything that ever arrived and keeping the end."""
    states, _ = folded([events])
    for user_id in {event.user_id for event in events}:
        mine = [event for event in events if event.user_id == user_id]
        newest = sorted(mine, key=lambda event: event.timestamp_ms)[-RULES.history_limit :]
        assert items(states[user_id]) == [event.item_id for event in newest]


@settings(deadline=None, max_examples=50)
@given(
    stored=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), max_size=8),
    imported=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), max_size=12),
)
def test_a_second_import_is_never_seen(
    stored: list[tuple[str, int]], imported: list[tuple[str, int]]
) -> None:
    """Whatever was there before, and however many events share a time."""
    before = add_engagements(UserState("u"), [an_engagement(i, t) for i, t in stored], limit=5)
    events = [HistoryEvent(item_id, "click", time) for item_id, time in imported]
    once, _ = merge_imported(before, events, limit=5)
    again, added = merge_imported(once, events, limit=5)
    assert (again, added) == (once, [])
    assert [e.timestamp_ms for e in once.history] == sorted(e.timestamp_ms for e in once.history)
    assert len(once.history) <= 5
