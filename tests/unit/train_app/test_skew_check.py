"""Histories made again from the lake against those that serving logged; and drift's index."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.types import HistoryEvent, UserState
from train_app.checking.drift_check import psi
from train_app.checking.skew_check import (
    LoggedFeatures,
    ReceivedEvent,
    compare_histories,
    histories_by_version,
)
from train_app.following.feature_fold import merge_imported

LIMIT, N_LOGGED = 5, 3


def received(*items: tuple[str, int], received_ms: int | None = None) -> list[ReceivedEvent]:
    """Engagements in order of arrival; imported ones where a time of import is given."""
    return [
        ReceivedEvent(
            HistoryEvent(item_id, "click", at_ms),
            at_ms if received_ms is None else received_ms,
            received_ms is not None,
        )
        for item_id, at_ms in items
    ]


def logged(version: int, *items: str, is_unread: bool = False) -> LoggedFeatures:
    """The features of an impression."""
    return LoggedFeatures(100, version, items, is_unread)


def verdicts(impressions: list[LoggedFeatures], events: list[ReceivedEvent]) -> list[str]:
    """What the impressions' features are."""
    return list(compare_histories(impressions, events, LIMIT, N_LOGGED))


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
    """Its events count as one version each, the same event twice as one."""
    imported = received(("x", 1), ("y", 2), ("y", 2), received_ms=50)
    events = [*imported, *received(("a", 60))]
    seen = [logged(2, "x", "y"), logged(3, "x", "y", "a"), logged(1, "x")]
    assert verdicts(seen, events) == ["equal", "equal", "imported between"]


def test_two_imports_count_what_each_added() -> None:
    """The second offers the newest of both."""
    first = received(*((f"a{n}", n) for n in range(LIMIT)), received_ms=50)
    second = received(("b", 20), received_ms=51)
    seen = [logged(LIMIT + 1, "a3", "a4", "b")]
    assert verdicts(seen, [*first, *second]) == ["equal"]


def test_an_import_in_between_cannot_be_told() -> None:
    """Those impressions are counted apart, whatever they hold."""
    events = [*received(("x", 1), received_ms=70), *received(("a", 60), ("b", 80))]
    seen = [logged(1, "a"), logged(3, "what", "ever")]
    assert verdicts(seen, events) == ["imported between"] * 2


def test_what_the_lake_has_not_yet_and_what_was_not_read_are_apart() -> None:
    """A version beyond the lake's; a slate made without the history."""
    seen = [logged(7, "z"), logged(0, is_unread=True)]
    assert verdicts(seen, received(("a", 1))) == ["ahead of the lake", "unread"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=12),
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), max_size=12),
)
def test_histories_made_again_end_like_the_merge(
    imports: list[tuple[str, int]], events: list[tuple[str, int]]
) -> None:
    """The version counts every change since the import, and no history is longer than the limit."""
    imported = received(*sorted(imports, key=lambda one: one[1]), received_ms=100)
    newest = [one.event for one in imported][-LIMIT:]
    state, _ = merge_imported(UserState(""), newest, LIMIT)
    wanted = set(range(50))
    made = histories_by_version(imported, received(*events), LIMIT, wanted)
    assert min(made) == state.version
    assert made[state.version] == tuple(event.item_id for event in state.history)
    assert max(made) <= state.version + len(events)
    assert set(made) == set(range(min(made), max(made) + 1))
    assert all(len(items) <= LIMIT for items in made.values())


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
