"""A history as columns is the same events, and changes as a list of events would."""

from __future__ import annotations

import pickle
from bisect import bisect_right

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.history_columns import (
    MAX_CODES,
    HistoryColumns,
    HistoryDraft,
    item_ids_of,
    times_of,
)
from recsys.types import HistoryEvent

ids = st.text(st.sampled_from("ab\x00\x01\x02é"), max_size=4)
events = st.builds(HistoryEvent, ids, st.sampled_from(["view", "click", "buy"]), st.integers(0, 9))
histories = st.lists(events, max_size=30).map(lambda found: sorted(found, key=time_of))


def time_of(event: HistoryEvent) -> int:
    """What a history is in order of."""
    return event.timestamp_ms


def columns_of(history: list[HistoryEvent]) -> HistoryColumns:
    """The history as columns."""
    columns = HistoryDraft(history).history()
    assert isinstance(columns, HistoryColumns)
    return columns


@settings(max_examples=50, deadline=None)
@given(histories, st.integers(-9, 40), st.integers(-9, 40))
def test_columns_are_the_events_they_were_made_of(
    history: list[HistoryEvent], first: int, last: int
) -> None:
    """As a sequence, whatever the ids contain."""
    columns = columns_of(history)
    assert list(columns) == history
    assert columns == tuple(history)
    assert tuple(history) == columns
    assert hash(columns) == hash(tuple(history))
    assert len(columns) == len(history)
    assert columns[first:last] == tuple(history[first:last])
    assert [columns[place] for place in range(len(history))] == history
    assert pickle.loads(pickle.dumps(columns)) == columns
    assert item_ids_of(columns) == item_ids_of(history)
    assert times_of(columns) == times_of(history)


@settings(max_examples=50, deadline=None)
@given(histories, st.lists(events, max_size=20), st.integers(1, 25), st.booleans())
def test_a_draft_changes_as_a_list_of_events(
    history: list[HistoryEvent], added: list[HistoryEvent], limit: int, is_columns: bool
) -> None:
    """Events in their place in time, the newest kept; what it was made of stays as it was."""
    before = columns_of(history)
    draft = HistoryDraft(before if is_columns else history)
    expected = list(history)
    for event in added:
        place = bisect_right(expected, event.timestamp_ms, key=time_of)
        assert draft.place_of(event.timestamp_ms) == place
        assert list(draft.before(place)) == expected[:place][::-1]
        draft.insert(place, event.item_id, event.kind, event.timestamp_ms)
        draft.keep_newest(limit)
        expected = [*expected[:place], event, *expected[place:]][-limit:]
    changed = draft.history()
    assert changed == tuple(expected)
    assert before == tuple(history)
    again = columns_of(expected)
    assert isinstance(changed, HistoryColumns)
    assert (changed.kinds, changed.kind_codes) == (again.kinds, again.kind_codes)
    assert (changed.joined_ids, changed.times_ms) == (again.joined_ids, again.times_ms)


def test_more_kinds_than_codes_stay_events() -> None:
    """No kind is lost, and columns come back when kinds have left."""
    many = [HistoryEvent("i", f"kind {n}", n) for n in range(MAX_CODES + 1)]
    draft = HistoryDraft()
    for place, event in enumerate(many):
        draft.insert(place, event.item_id, event.kind, event.timestamp_ms)
    assert draft.history() == tuple(many)
    assert HistoryDraft(many).history() == tuple(many)
    assert list(draft.before(MAX_CODES + 1)) == many[::-1]
    draft.keep_newest(MAX_CODES)
    columns = draft.history()
    assert isinstance(columns, HistoryColumns)
    assert columns == tuple(many[1:])
