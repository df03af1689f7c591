"""Which impression an engagement labels, and what becomes of those that label none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from tests.example_tables import a_slate, an_act, some_rules, stage
from train_app.examples.example_rules import ExampleRules
from train_app.examples.labelled_impressions import label_moments


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with duckdb.connect(config={"threads": 2}) as opened:
        yield opened


def labelled(
    connection: duckdb.DuckDBPyConnection,
    acts: list[dict[str, Any]],
    slates: list[dict[str, Any]],
    rules: ExampleRules | None = None,
) -> tuple[dict[tuple[str, str], list[tuple[str, int, str]]], Counter[str]]:
    """Labels (kind, after, matched by) of each moment and item, and the counts."""
    stage(connection, acts, slates)
    counts = label_moments(connection, rules or some_rules())
    rows = connection.sql("SELECT moment_id, item_id, labels FROM candidates").fetchall()
    assert len({row[:2] for row in rows}) == len(rows)
    return {
        (moment, item): [(x["kind"], x["after_ms"], x["matched_by"]) for x in labels or []]
        for moment, item, labels in rows
    }, counts


def test_an_engagement_labels_the_impression_its_request_names(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Though the item was shown again in between; the other one stays without a label."""
    acts = [an_act("u", "a", 60, request_id="r10")]
    found, counts = labelled(connection, acts, [a_slate("u", "ab", 10), a_slate("u", "a", 50)])
    assert found == {("m10", "a"): [("click", 50, "request")], ("m10", "b"): [], ("m50", "a"): []}
    assert counts["engagements_request"] == 1


def test_without_a_request_it_labels_the_newest_impression_of_the_item_before_it(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Of the same user, within the label window; of the same millisecond counts as before."""
    slates = [a_slate("u", "a", 10), a_slate("u", "a", 50), a_slate("v", "a", 55)]
    acts = [an_act("u", "a", 60), an_act("u", "a", 50, "like"), an_act("u", "a", 49, "view")]
    found, _ = labelled(connection, acts, slates)
    assert found["m50", "a"] == [("like", 0, "user_item"), ("click", 10, "user_item")]
    assert found["m10", "a"] == [("view", 39, "user_item")]
    assert found["m55", "a"] == []


def test_a_request_nobody_logged_is_matched_by_user_and_item(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Its impression may have been dropped under load; another user's request is unknown too."""
    acts = [an_act("u", "a", 60, request_id="lost"), an_act("u", "b", 60, request_id="r11")]
    slates = [a_slate("u", "ab", 10), a_slate("v", "b", 11)]
    found, _ = labelled(connection, acts, slates)
    assert found["m10", "a"] == [("click", 50, "user_item")]
    assert found["m10", "b"] == [("click", 50, "user_item")]
    assert found["m11", "b"] == []


def test_an_engagement_that_arrived_before_its_impression_still_labels_it(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Event time decides, not the order in the log."""
    acts = [an_act("u", "a", 20, request_id="r10", received_ms=1, sequence=1)]
    found, _ = labelled(connection, acts, [a_slate("u", "a", 10)])
    assert found == {("m10", "a"): [("click", 10, "request")]}


def test_an_engagement_never_labels_an_impression_that_is_later(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """By its request it is dropped and counted; by user and item it is a visit of its own."""
    acts = [an_act("u", "a", 9, request_id="r10"), an_act("u", "b", 9)]
    found, counts = labelled(connection, acts, [a_slate("u", "ab", 10)])
    assert found == {("m10", "a"): [], ("m10", "b"): [], ("u-b-click-9", "b"): [
        ("click", 0, "organic")]}  # fmt: skip
    assert counts["engagements_before_impression"] == 1


def test_an_item_not_in_the_slate_and_a_request_of_long_ago_are_visits_of_their_own(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """The window is half open: what comes at its end is too late."""
    acts = [
        an_act("u", "x", 20, request_id="r10"),
        an_act("u", "a", 110, request_id="r10"),
        an_act("u", "b", 109, request_id="r10"),
    ]
    found, counts = labelled(connection, acts, [a_slate("u", "ab", 10)])
    assert found["m10", "a"] == []
    assert found["m10", "b"] == [("click", 99, "request")]
    assert found["u-x-click-20", "x"] == [("click", 0, "organic")]
    assert found["u-a-click-110", "a"] == [("click", 0, "organic")]
    assert (counts["engagements_not_in_slate"], counts["engagements_request_long_ago"]) == (1, 1)
    without, _ = labelled(
        connection, acts, [a_slate("u", "ab", 10)], some_rules(with_organic=False)
    )
    assert set(without) == {("m10", "a"), ("m10", "b")}


def test_a_visit_ends_with_a_pause_of_a_whole_window(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """What comes within the window labels the visit; what drags on after it labels nothing."""
    acts = [an_act("u", "a", t, kind) for t, kind in ((0, "view"), (40, "click"), (130, "like"))]
    found, counts = labelled(connection, [*acts, an_act("u", "a", 230, "view")], [])
    assert found == {
        ("u-a-view-0", "a"): [("view", 0, "organic"), ("click", 40, "organic")],
        ("u-a-view-230", "a"): [("view", 0, "organic")],
    }
    assert counts["engagements_after_their_visit"] == 1


def test_a_label_holds_the_first_of_its_kind_and_its_first_value(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Repeats change nothing; a value may come with a later one."""
    acts = [
        an_act("u", "a", 20, "rating"),
        an_act("u", "a", 30, "rating", value=4.0),
        an_act("u", "a", 40, "rating", value=2.0),
    ]
    stage(connection, acts, [a_slate("u", "a", 10)])
    label_moments(connection, some_rules())
    [(labels,)] = connection.sql("SELECT labels FROM candidates").fetchall()
    assert labels == [{"kind": "rating", "after_ms": 10, "value": 4.0, "matched_by": "user_item"}]


def test_moments_whose_window_is_not_closed_are_left_out_and_counted(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Their engagements are not taken for visits of their own either."""
    slates = [a_slate("u", "a", 10), a_slate("u", "b", 11)]
    acts = [an_act("u", "b", 12), an_act("u", "c", 50)]
    found, counts = labelled(connection, acts, slates, some_rules(closed_live_ms=110))
    assert found == {("m10", "a"): []}
    assert (counts["impressions_window_open"], counts["organic_window_open"]) == (1, 1)


events = st.lists(
    st.tuples(
        st.sampled_from("uv"),
        st.sampled_from("ab"),
        st.integers(0, 400),
        st.sampled_from(["view", "click"]),
        st.sampled_from([None, "r0", "r90", "r200", "lost"]),
    ),
    max_size=12,
    unique_by=lambda event: event[:4],
)


@given(rows=events)
@hypothesis_settings(deadline=None, max_examples=15)
def test_every_engagement_labels_one_moment_at_most_and_none_after_itself(
    connection: duckdb.DuckDBPyConnection,
    rows: list[tuple[str, str, int, str, str | None]],
) -> None:
    """Whatever requests they name: all are accounted for, and labels lie in their windows."""
    acts = [an_act(u, i, t, k, request_id=request) for u, i, t, k, request in rows]
    slates = [a_slate("u", "ab", 0), a_slate("v", "b", 90), a_slate("u", "a", 200)]
    found, counts = labelled(connection, acts, slates)
    fates = {name: n for name, n in counts.items() if n and name.startswith("engagements_")}
    after = fates.pop("engagements_after_their_visit", 0)
    assert sum(fates.values()) == len(rows)
    n_labels = sum(map(len, found.values()))
    n_dropped = fates.get("engagements_before_impression", 0) + after
    assert n_labels <= len(rows) - n_dropped
    assert all(0 <= after_ms < 100 for labels in found.values() for _, after_ms, _ in labels)
