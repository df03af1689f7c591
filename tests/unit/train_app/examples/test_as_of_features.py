"""Counts as of a moment equal what the online definitions say of what was known then."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recsys.feature_definitions import (
    WINDOWS_S,
    WindowCounts,
    bucket_of,
    summed_counts,
    user_window_counts,
)
from recsys.types import HistoryEvent
from tests.example_lake import DAY, HOUR, MINUTE, NOON
from tests.example_tables import an_act, stage
from train_app.examples.as_of_features import (
    create_item_timeline,
    create_user_timeline,
    create_visible,
    with_counts,
    with_histories,
)
from train_app.examples.example_schema import ITEM_COUNTS, USER_COUNTS


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with duckdb.connect(config={"threads": 2}) as opened:
        yield opened


acts_of_two = st.lists(
    st.builds(
        lambda user, item, ago, delay, kind, imported, n: an_act(
            user, item, NOON - ago, kind, received_ms=NOON - ago + delay, is_imported=imported,
            event_id=f"{n}", sequence=n,
        ),
        st.sampled_from("uv"), st.sampled_from("ab"),
        st.one_of(st.integers(-MINUTE, 20 * MINUTE), st.integers(0, 2 * DAY)),
        st.one_of(st.integers(-MINUTE, MINUTE), st.integers(0, 3 * HOUR)),
        st.sampled_from(["view", "dismiss"]), st.booleans(), st.integers(0, 10**6),
    ),
    max_size=25,
    unique_by=lambda act: act["event_id"],
)  # fmt: skip
moments_of_two = st.lists(
    st.tuples(st.booleans(), st.sampled_from("uv"), st.sampled_from("ab"), st.integers(0, 2 * DAY)),
    min_size=1,
    max_size=8,
)


def asked(
    connection: duckdb.DuckDBPyConnection,
    acts: list[dict[str, Any]],
    moments: list[tuple[bool, str, str, int]],
    history_limit: int = 200,
) -> None:
    """Tables for both timelines, and `moments` some time before NOON."""
    stage(connection, acts)
    create_visible(connection, "engagements")
    create_user_timeline(connection, history_limit)
    create_item_timeline(connection)
    connection.execute(
        "CREATE OR REPLACE TABLE moments (place INT, is_imported BOOL, user_id VARCHAR,"
        " item_id VARCHAR, timestamp_ms BIGINT)"
    )
    for place, (imported, user, item, ago) in enumerate(moments):
        connection.execute(
            "INSERT INTO moments VALUES (?, ?, ?, ?, ?)", [place, imported, user, item, NOON - ago]
        )


def known_then(acts: list[dict[str, Any]], imported: bool, now_ms: int) -> list[dict[str, Any]]:
    """What a moment may know: by arrival, or among imports by when it happened."""
    return [
        act for act in acts
        if act["event_ms"] < now_ms
        and (act["is_imported"] if imported else act["received_ms"] <= now_ms)
    ]  # fmt: skip


def counts_of(counts: WindowCounts) -> list[int]:
    """In the order of the columns: by window, positives and negatives."""
    return [n for pair in zip(counts.positives, counts.negatives, strict=True) for n in pair]


@given(acts=acts_of_two, moments=moments_of_two)
@hypothesis_settings(deadline=None, max_examples=12)
def test_counts_as_of_a_moment_are_the_online_counts_of_what_was_known(
    connection: duckdb.DuckDBPyConnection,
    acts: list[dict[str, Any]],
    moments: list[tuple[bool, str, str, int]],
) -> None:
    """Late arrivals, clocks ahead, both origins, all windows; and how new the newest is."""
    asked(connection, acts, moments)
    users = f"place, {', '.join(USER_COUNTS)}, user_event_ms"
    found = sorted(with_counts(connection, "user", "moments").project(users).fetchall())
    items = f"place, {', '.join(ITEM_COUNTS)}, item_total"
    item_rows = sorted(with_counts(connection, "item", "moments").project(items).fetchall())
    for place, (imported, user, item, ago) in enumerate(moments):
        now_ms = NOON - ago
        known = known_then(acts, imported, now_ms)
        own = [act for act in known if act["user_id"] == user]
        history = [HistoryEvent(act["item_id"], act["kind"], act["event_ms"]) for act in own]
        online = user_window_counts(history, now_ms, {"dismiss"})
        assert [n or 0 for n in found[place][1:-1]] == counts_of(online)
        assert found[place][-1] == max((act["event_ms"] for act in own), default=None)
        of_item = [act for act in known if act["item_id"] == item]
        buckets = [
            (window_s, bucket_of(act["event_ms"], window_s), not act["is_negative"],
             act["is_negative"])
            for act in of_item if act["is_imported"] == imported for window_s in WINDOWS_S
        ]  # fmt: skip
        assert [n or 0 for n in item_rows[place][1:-1]] == counts_of(summed_counts(buckets, now_ms))
        total = sum(not act["is_negative"] for act in of_item)
        assert (item_rows[place][-1] or 0) == total


def test_user_counts_see_no_more_than_a_history_holds(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """The online counts are made of the newest engagements only."""
    acts = [an_act("u", "a", NOON - n, "dismiss" if n > 3 else "view") for n in range(1, 8)]
    asked(connection, acts, [(False, "u", "a", 0)], history_limit=5)
    relation = with_counts(connection, "user", "moments")
    assert relation.project("user_positives_300s, user_negatives_300s").fetchall() == [(3, 2)]


def test_items_leave_late_engagements_out_of_their_windows_only(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """As the online counts do; in the total they stand."""
    acts = [an_act("u", "a", NOON - 5, is_late=True), an_act("u", "a", NOON - 4)]
    asked(connection, acts, [(False, "u", "a", 0)])
    relation = with_counts(connection, "item", "moments")
    assert relation.project("item_positives_300s, item_total").fetchall() == [(1, 2)]


def test_a_history_is_what_became_known_last_in_order_of_time(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """The engagement of the moment itself is not in it, nor what arrived after it."""
    acts = [
        an_act("u", "first", NOON - 30), an_act("u", "second", NOON - 20),
        an_act("u", "delayed", NOON - 25, received_ms=NOON - 10),
        an_act("u", "unknown", NOON - 15, received_ms=NOON + 1), an_act("u", "now", NOON),
    ]  # fmt: skip
    asked(connection, acts, [(False, "u", "x", 0), (False, "u", "x", 12), (True, "u", "x", 0)])
    relation = with_histories(connection, "moments", 2)
    assert sorted(relation.project("place, as_of_items").fetchall()) == [
        (0, ["delayed", "second"]),
        (1, ["first", "second"]),
        (2, None),
    ]
