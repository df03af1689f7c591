"""Negatives of every stage: only what can be known, and log-Q as the draws really are."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

import duckdb
import pytest

from tests.example_tables import a_slate, an_act, some_rules, stage
from train_app.examples.example_rules import ExampleRules
from train_app.examples.labelled_impressions import label_moments
from train_app.examples.negatives_of_path import (
    add_dropped,
    add_random,
    add_unshown,
    is_scored_sql,
    log_q_sql,
)


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    """A database in memory."""
    with duckdb.connect(config={"threads": 2}) as opened:
        yield opened


def pools(connection: duckdb.DuckDBPyConnection, items: list[str], past: list[str]) -> None:
    """Pools of the log's moments: what was known at 0 in this order, and at 60,000 whole."""
    rows: dict[str, list[str]] = {"items": items, "engagements": past}
    for name, ids in rows.items():
        listed = ", ".join(f"(false, '{item}', {n})" for n, item in enumerate(ids))
        connection.execute(
            f"CREATE OR REPLACE TABLE pool_{name} AS SELECT * FROM (VALUES {listed})"
            " v(is_imported, item_id, place)"
        )
    connection.execute(f"""CREATE OR REPLACE TABLE pool_sizes AS
        SELECT false AS is_imported, 0 AS sized_ms, 1 AS n_items, 0 AS n_engagements
        UNION ALL SELECT false, 60000, {len(items)}, {len(past)}""")


def negatives(
    connection: duckdb.DuckDBPyConnection,
    acts: list[dict[str, Any]],
    slates: list[dict[str, Any]],
    rules: ExampleRules,
) -> tuple[set[tuple[str, str, str]], Counter[str]]:
    """The unlabelled candidates as (moment, item, stage), and the counts."""
    stage(connection, acts, slates)
    label_moments(connection, rules)
    counts = add_unshown(connection, rules)
    counts.update(add_dropped(connection, rules))
    counts.update(add_random(connection, rules))
    rows = connection.sql(
        "SELECT moment_id, item_id, stage FROM candidates WHERE coalesce(len(labels), 0) = 0"
    ).fetchall()
    assert len(set(rows)) == len(rows)
    return set(rows), counts


def test_shown_and_ignored_and_scored_and_not_shown_are_negatives_of_their_stage(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """What the user came to within the window all the same is none, and is counted."""
    pools(connection, ["z"], ["z"])
    acts = [an_act("u", "a", 20), an_act("u", "d", 30)]
    found, counts = negatives(
        connection, acts, [a_slate("u", "ab", 10, "cd")], some_rules(n_random=0)
    )
    assert found == {("m10", "b", "shown"), ("m10", "c", "scored")}
    assert counts["unshown_engaged"] == 1


def test_retrieved_and_dropped_are_negatives_with_the_chance_of_their_draw(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Without a score; what the user came to is left out, and changes no chance."""
    pools(connection, ["z"], ["z"])
    dropped = [
        {"item_id": item, "source": "index", "retrieval_score": 0.25, "retrieval_rank": 200 + n}
        for n, item in enumerate("defc")
    ]
    slates = [
        a_slate("u", "ab", 10, "c", dropped=dropped, n_dropped=160),
        a_slate("u", "a", 15, dropped=dropped[:2], n_dropped=2),
    ]
    found, counts = negatives(connection, [an_act("u", "e", 112)], slates, some_rules(n_random=0))
    assert {one for one in found if one[2] == "retrieved"} == {
        ("m10", "d", "retrieved"), ("m10", "e", "retrieved"), ("m10", "f", "retrieved"),
        ("m15", "d", "retrieved"),
    }  # fmt: skip
    assert ("m10", "c", "scored") in found
    assert counts["dropped_engaged"] == 1
    rows = connection.sql("""SELECT DISTINCT moment_id, log_q, score, source, score_rank
        FROM candidates WHERE stage = 'retrieved' ORDER BY moment_id""").fetchall()
    assert rows == [
        ("m10", pytest.approx(math.log(4 / 160)), None, "index", None),
        ("m15", 0.0, None, "index", None),
    ]


def test_without_a_scorer_nothing_was_scored(connection: duckdb.DuckDBPyConnection) -> None:
    """What was served in retrieval order has no score, and what was not shown was retrieved."""
    pools(connection, ["z"], ["z"])
    slates = [a_slate("u", "a", 10, "c", is_scored=False)]
    found, _ = negatives(connection, [], slates, some_rules(n_random=0))
    assert found == {("m10", "a", "shown"), ("m10", "c", "retrieved")}
    scores = connection.sql("SELECT score, score_rank FROM candidates").fetchall()
    assert scores == [(None, None), (None, None)]
    for degraded, is_scored in (
        ("[]", True), ("NULL", True), ("['shard-0: timeout']", True),
        ("['ordering: timeout']", True), ("['scorer: timeout']", False),
        ("['shard-1: timeout', 'encode: unavailable']", False),
    ):  # fmt: skip
        sql = is_scored_sql(f"{degraded}::VARCHAR[]")
        assert connection.sql(f"SELECT {sql}").fetchall() == [(is_scored,)]


def test_random_items_are_never_the_users_own_nor_in_the_moment_already(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Neither of before nor within the window; what comes after it may not be known."""
    pools(connection, list("abcdefgh"), list("aabbccdd"))
    acts = [an_act("u", item, at) for item, at in (("a", 70_010), ("g", 5), ("h", 70_090))]
    acts += [an_act("u", "f", 70_200), an_act("u", "a", 70_200, "dismiss")]
    found, counts = negatives(
        connection, acts, [a_slate("u", "ab", 70_000, "c")],
        some_rules(n_random=60, with_organic=False),
    )  # fmt: skip
    drawn = {item for moment, item, stage_ in found if stage_ == "random"}
    assert drawn == set("def")
    assert counts["random_not_negative"] == 5


def test_only_moments_that_end_in_a_positive_get_random_items(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """A dismissal is no positive."""
    pools(connection, list("xyz"), ["x"])
    acts = [an_act("u", "a", 70_010, "dismiss"), an_act("v", "a", 70_011)]
    slates = [a_slate("u", "a", 70_000), a_slate("v", "a", 70_001)]
    found, _ = negatives(connection, acts, slates, some_rules())
    assert {moment for moment, _, stage_ in found if stage_ == "random"} == {"m70001"}


def test_a_draw_sees_the_pools_as_they_were_when_its_minute_began(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """Later items and engagements are out of reach, and so is everything before the first."""
    pools(connection, list("xyz"), list("yyz"))
    slates, acts = [a_slate("u", "a", 59_000)], [an_act("u", "a", 59_001)]
    found, _ = negatives(connection, acts, slates, some_rules(n_random=30))
    assert found == {("m59000", "x", "random")}
    connection.execute("DELETE FROM pool_sizes WHERE sized_ms = 0")
    found, _ = negatives(connection, acts, slates, some_rules(n_random=30))
    assert found == set()


def test_draws_depend_on_the_seed_and_the_moment_alone(
    connection: duckdb.DuckDBPyConnection,
) -> None:
    """So every part and every machine draws the same."""
    pools(connection, [f"x{n}" for n in range(500)], ["x0", "x1"])
    slates, acts = [a_slate("u", "a", 70_000)], [an_act("u", "a", 70_001)]
    more = [a_slate("v", "a", 70_002)], [an_act("v", "a", 70_003)]
    first, _ = negatives(connection, acts, slates, some_rules())
    again, _ = negatives(connection, [*more[1], *acts], [*more[0], *slates], some_rules())
    other, _ = negatives(connection, acts, slates, some_rules(seed=1))
    assert first <= again
    assert first != other


def test_log_q_is_the_chance_of_one_draw(connection: duckdb.DuckDBPyConnection) -> None:
    """Over all items the chances add up to one, and draws occur as often as they say."""
    items, past = list("abcd"), ["a"] * 6 + ["b"] * 2
    pools(connection, items, past)
    chances = {}
    for item in items:
        sql = log_q_sql(str(past.count(item)))
        query = f"SELECT {sql} FROM (SELECT 4 AS n_items, 8 AS n_engagements)"
        chances[item] = math.exp(connection.sql(query).fetchall()[0][0])
    assert sum(chances.values()) == pytest.approx(1.0)
    assert chances["a"] == pytest.approx(0.5 / 4 + 0.5 * 6 / 8)
    alone = f"SELECT {log_q_sql('NULL')} FROM (SELECT 4 AS n_items, 0 AS n_engagements)"
    assert connection.sql(alone).fetchall()[0][0] == pytest.approx(math.log(1 / 4))
    n = 20_000
    negatives(
        connection, [an_act("u", "x", 70_001)], [a_slate("u", "x", 70_000)],
        some_rules(n_random=n),
    )  # fmt: skip
    drawn = dict(connection.sql(
        "SELECT item_id, n_drawn FROM candidates WHERE stage = 'random'").fetchall())  # fmt: skip
    for item, chance in chances.items():
        assert abs(drawn[item] / n - chance) < 4 * math.sqrt(chance * (1 - chance) / n)
