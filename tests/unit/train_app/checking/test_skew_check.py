"""Histories made again from the lake against those that serving logged; and drift's index."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.types import HistoryEvent, UserState
from train_app.checking import history_replay
from train_app.checking.drift_check import psi
from train_app.checking.history_replay import ReceivedEvent
from train_app.checking.history_verdicts import (
    NO_FACTS,
    LoggedFeatures,
    ReplayRules,
    UserFacts,
    compare_histories,
)
from train_app.following.features.feature_fold import merge_imported

LIMIT = 5
RULES = ReplayRules(LIMIT, items_since_ms=0)


def received(*items: tuple[str, int], received_ms: int | None = None) -> list[ReceivedEvent]:
    """Engagements in order of arrival; imported ones where a time of import is given."""
    return [
        ReceivedEvent(
            HistoryEvent(item_id, "click", at_ms),
            at_ms if received_ms is None else received_ms,
            received_ms is not None,
            at_ms,
        )
        for item_id, at_ms in items
    ]


def logged(version: int, *items: str, **fields: Any) -> LoggedFeatures:
    """The features of an impression, at offset 100 of the log."""
    return LoggedFeatures(**{"timestamp_ms": 100, "log_offset": 100, **fields,
                             "version": version, "items": items})  # fmt: skip


def verdicts(
    impressions: list[LoggedFeatures],
    events: list[ReceivedEvent],
    rules: ReplayRules = RULES,
    facts: UserFacts = NO_FACTS,
) -> list[str]:
    """What the impressions' features are."""
    return list(compare_histories(impressions, events, rules, facts))


def test_features_as_logged_equal_those_made_again() -> None:
    """At every version, of which the newest items are logged."""
    events = received(("a", 1), ("b", 2), ("c", 3), ("d", 4))
    seen = [logged(0), logged(1, "a"), logged(3, "a", "b", "c"), logged(4, "b", "c", "d")]
    assert verdicts(seen, events) == ["equal"] * 4


@pytest.mark.parametrize("items", [("a", "x"), ("b", "a"), ("a",), ()])
def test_another_history_is_a_difference(items: tuple[str, ...]) -> None:
    """Another item, another order, an event less."""
    assert verdicts([logged(2, *items)], received(("a", 1), ("b", 2))) == ["different"]


def test_a_late_event_takes_its_place_in_time() -> None:
    """From the version on that counts it."""
    events = received(("a", 10), ("b", 30), ("late", 20))
    seen = [logged(2, "a", "b"), logged(3, "a", "late", "b")]
    assert verdicts(seen, events) == ["equal", "equal"]


def test_an_event_older_than_a_full_history_changes_no_version() -> None:
    """As in the feature store."""
    full = received(*((f"i{n}", 10 + n) for n in range(LIMIT)))
    events = [*full, *received(("ancient", 1), ("new", 99))]
    assert verdicts([logged(LIMIT + 1, "i3", "i4", "new")], events) == ["equal"]


def test_an_import_before_everything_can_be_made_again() -> None:
    """Its events count as one version each, the same event twice as one; before it, nothing."""
    imported = received(("x", 1), ("y", 2), ("y", 2), received_ms=50)
    events = [*imported, *received(("a", 60))]
    seen = [logged(0), logged(2, "x", "y"), logged(3, "x", "y", "a"), logged(2, "x")]
    assert verdicts(seen, events) == ["equal", "equal", "equal", "different"]


def test_two_imports_count_what_each_added() -> None:
    """The second offers the newest of both."""
    first = received(*((f"a{n}", n) for n in range(LIMIT)), received_ms=50)
    second = received(("b", 20), received_ms=51)
    seen = [logged(LIMIT + 1, "a3", "a4", "b")]
    assert verdicts(seen, [*first, *second]) == ["equal"]


def test_an_import_in_between_is_looked_for_in_every_order() -> None:
    """Merged before, between or behind what was logged, or offered anew to a store made again."""
    late = received(("x", 70), ("y", 71), received_ms=75)
    events = [*late, *received(("a", 60), ("b", 80))]
    in_between = [logged(1, "a"), logged(3, "a", "x", "y"), logged(4, "a", "x", "y", "b")]
    at_last = [logged(2, "a", "b"), logged(4, "a", "x", "y", "b")]
    at_once = [logged(2, "x", "y"), logged(3, "a", "x", "y")]
    wrong = [logged(3, "what", "ever"), logged(2, "x", "a"), logged(4, "b", "a")]
    assert verdicts([*in_between, *at_last, *at_once], events) == ["equal"] * 7
    assert verdicts(wrong, events) == ["different"] * 3


def test_what_a_store_made_anew_counts_after_two_imports_is_found() -> None:
    """It is offered both at once; the store before it merged them one by one."""
    first = received(*((f"a{n}", n) for n in range(LIMIT)), received_ms=50)
    second = received(*((f"b{n}", 10 + n) for n in range(LIMIT)), received_ms=60)
    events = [*first, *second, *received(("c", 70))]
    seen = [logged(LIMIT * 2 + 1, "b4", "c"), logged(LIMIT + 1, "b4", "c"), logged(LIMIT, "b4")]
    assert verdicts(seen, events) == ["equal"] * 3
    assert verdicts([logged(LIMIT + 2, "b4", "c")], events) == ["different"]


def test_an_import_that_was_broken_off_comes_with_the_next_whenever_that_is() -> None:
    """Its rows were in the lake a day before they were in the store."""
    day_ms = 86_400_000
    first, second = received(("x", 1), received_ms=50), received(("y", 2), received_ms=51)
    events = [*first, *second, *received(("a", 60), ("b", day_ms))]
    seen = [logged(1, "a"), logged(3, "x", "y", "a"), logged(2, "a", "b"), logged(2, "x", "a")]
    assert verdicts(seen, events) == ["equal"] * 4
    assert verdicts([logged(2, "y", "a"), logged(1, "y")], events) == ["different"] * 2


def test_every_order_of_several_imports_is_found_and_only_too_many_states_are_an_excuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three imports into a busy hour."""
    imports = [one for at in (10, 20, 30) for one in received((f"x{at}", at), received_ms=at)]
    events = [*imports, *received(*((f"i{n}", n) for n in range(100)))]
    seen = [logged(103, "i97", "i98", "i99"), logged(12, "i10", "x10"), logged(12, "i10", "z")]
    assert verdicts(seen, events, facts=UserFacts(101)) == ["equal", "different", "different"]
    last = [logged(50, "i46", "i47", "i48", "i49"), logged(51, "i46", "i47", "i48", "i49")]
    assert verdicts(last, events) == ["equal", "equal"]
    monkeypatch.setattr(history_replay, "MAX_STEPS", 10)
    assert verdicts([logged(12, "z")], events) == ["imported between"]


def test_what_the_lake_has_not_yet_and_what_was_not_read_are_apart() -> None:
    """A version beyond the lake's; a slate made without the history."""
    seen = [logged(7, "z"), logged(0, is_unread=True)]
    events = received(("a", 1))
    assert verdicts(seen, events) == ["ahead of the lake", "unread"]
    behind, beyond = UserFacts(filled_to=100), UserFacts(filled_to=101)
    assert verdicts(seen[:1], events, facts=behind) == ["ahead of the lake"]
    assert verdicts(seen[:1], events, facts=beyond) == ["different"]


@pytest.mark.parametrize(
    ("version", "facts", "expected"),
    [
        (3, UserFacts(101, gap_offset=99), "lost from the log"),
        (3, UserFacts(101, gap_offset=100), "different"),
        (2, UserFacts(101, gap_offset=99), "different"),
        (3, UserFacts(101, quarantine_offset=7), "quarantined"),
        (3, UserFacts(101, quarantine_offset=101), "different"),
        (2, UserFacts(101, quarantine_offset=7), "different"),
        (1, UserFacts(101, forgettings=((0, 50),)), "forgotten"),
        (1, UserFacts(101, forgettings=((2, 50),)), "different"),
        (1, UserFacts(101, forgettings=((0, -60_000),)), "different"),
    ],
)
def test_a_fact_on_record_explains_what_comes_after_it(
    version: int, facts: UserFacts, expected: str
) -> None:
    """A gap, a quarantined event, a request to be forgotten; none where it cannot be why."""
    events = received(("a", 1), ("b", 3), ("after", 200))
    assert verdicts([logged(version, "gone")], events, facts=facts) == [expected]


def test_events_that_went_with_a_request_to_be_forgotten_are_not_counted() -> None:
    """They came behind it, and the store was told directly."""
    events = received(("a", 11), ("b", 12), ("c", 13))
    facts = UserFacts(101, forgettings=((10, -(10**6)),))
    assert verdicts([logged(1, "c"), logged(2, "b", "c")], events, facts=facts) == ["equal"] * 2
    assert verdicts([logged(1, "c")], events) == ["different"]


def test_another_history_limit_of_an_earlier_report_is_tried() -> None:
    """Under which an event older than all others was not taken."""
    events = received(("b", 20), ("c", 30), ("a", 10), ("d", 40))
    seen = [logged(3, "b", "c", "d")]
    assert verdicts([logged(3, "c", "d")], events) == ["different"]
    rules = ReplayRules(LIMIT, earlier_limits=(2,), items_since_ms=0)
    assert verdicts([logged(3, "c", "d")], events, rules) == ["equal"]
    assert verdicts(seen, events, rules) == ["different"]


@pytest.mark.parametrize(
    ("since_ms", "expected"), [(None, "unlogged"), (200, "unlogged"), (100, "different")]
)
def test_items_that_were_not_logged_yet_are_no_difference(
    since_ms: int | None, expected: str
) -> None:
    """`serve.log_history` was 0 until then; from then on a history without items is wrong."""
    rules = ReplayRules(LIMIT, items_since_ms=since_ms)
    assert verdicts([logged(1), logged(0)], received(("a", 1)), rules) == [expected, "equal"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=8),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=8),
    st.integers(0, 8),
)
def test_whatever_a_store_goes_through_is_equal_and_anything_else_is_not(
    imports: list[tuple[str, int]], events: list[tuple[str, int]], at: int
) -> None:
    """An import merged behind any event; the same with a stranger's item at its end."""
    imported = received(*sorted(imports, key=lambda one: one[1]), received_ms=100)
    arrived = received(*events)
    states = store_states(imported, arrived, min(at, len(arrived)))
    seen = [
        logged(state.version, *[event.item_id for event in state.history][-3:]) for state in states
    ]
    assert set(verdicts(seen, [*imported, *arrived])) == {"equal"}
    wrong = [logged(one.version, *one.items[:-1], "stranger") for one in seen if one.items]
    assert set(verdicts(wrong, [*imported, *arrived], facts=UserFacts(101))) <= {"different"}


def store_states(
    imported: Sequence[ReceivedEvent], arrived: Sequence[ReceivedEvent], at: int
) -> list[UserState]:
    """The states of a store that merges the import behind `at` logged events."""
    states = [UserState("")]
    for n in range(len(arrived) + 1):
        if n == at:
            offered = [one.event for one in imported][-LIMIT:]
            states.append(merge_imported(states[-1], offered, LIMIT)[0])
        if n < len(arrived):
            states.append(with_event(states[-1], arrived[n].event))
    return states


def with_event(state: UserState, event: HistoryEvent) -> UserState:
    """The state after one more event, by sorting."""
    kept = sorted([*state.history, event], key=lambda one: one.timestamp_ms)
    if len(kept) > LIMIT and kept[0] is event:
        return state
    return UserState("", tuple(kept[-LIMIT:]), state.version + 1)


def test_equal_shares_have_no_index_and_a_shift_has_a_large_one() -> None:
    """The sign of a shift does not matter."""
    assert psi({"a": 500, "b": 500}, {"a": 5000, "b": 5000}) == pytest.approx(0, abs=1e-6)
    shifted = psi({"a": 900, "b": 100}, {"a": 100, "b": 900})
    assert shifted == pytest.approx(2 * 0.8 * 2.197, rel=0.01)
    assert shifted == pytest.approx(psi({"a": 100, "b": 900}, {"a": 900, "b": 100}))


def test_a_value_that_is_new_counts_by_its_rows() -> None:
    """One row of a new value is no shift, a tenth is."""
    assert psi({"a": 1000}, {"a": 1000, "b": 1}) < 0.01
    assert psi({"a": 1000}, {"a": 900, "b": 100}) > 0.2


def test_rare_values_share_a_bin() -> None:
    """A long tail that turns over is no shift by itself."""
    before = {"big": 10_000} | {f"x{n}": 1 for n in range(300)}
    after = {"big": 10_000} | {f"y{n}": 1 for n in range(300)}
    assert psi(before, after) < 0.05
