"""Sets of examples from a lake on disk: whole, repeatable, and never shown where they leak."""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError, DataRefused, StoreError
from recsys.feature_columns import late_events
from recsys.settings import Settings
from tests.example_lake import (
    DAY,
    HOUR,
    MINUTE,
    NOON,
    a_lake,
    an_engagement,
    an_entry,
    an_imported,
    an_impression,
)
from train_app.examples.example_command import write_examples
from train_app.examples.example_inputs import StagedParts, attach_file, stage_late_events
from train_app.examples.example_parts import make_item_part
from train_app.examples.example_rules import ExampleOptions
from train_app.examples.example_schema import EXAMPLES, open_examples
from train_app.examples.example_set import ExampleSources, make_examples, make_parts_here

pytestmark = pytest.mark.integration
END = NOON + 2 * DAY


def a_busy_lake(data_dir: Path, seed: int = 3) -> Settings:
    """Thirty users over three days: imports, slates, reactions of all sorts, late arrivals."""
    rng = np.random.default_rng(seed)
    items = [f"i{n}" for n in range(40)]
    imported = [
        an_imported(
            f"u{rng.integers(30)}", str(rng.choice(items)), NOON - int(rng.integers(1, 30 * DAY))
        )
        for _ in range(300)
    ]
    impressions, engagements = [], []
    for n in range(200):
        user, at_ms = f"u{rng.integers(30)}", NOON + n * 13 * MINUTE
        picked = [str(item) for item in rng.choice(items, 9, replace=False)]
        impression = an_impression(user, picked[:6], at_ms, picked[6:8], picked[8:])
        impressions.append(impression)
        for item in picked[: int(rng.integers(0, 4))]:
            wait_ms = int(rng.integers(1_000, 2 * HOUR))
            kind = str(rng.choice(["click", "like", "dismiss"]))
            request = impression["request_id"] if rng.random() < 0.7 else None
            late_ms = int(rng.integers(0, 3 * HOUR)) if rng.random() < 0.1 else 40
            engagements.append(
                an_engagement(
                    user, item, at_ms + wait_ms, kind,
                    request_id=request, received_at_ms=at_ms + wait_ms + late_ms,
                )
            )  # fmt: skip
    engagements += [
        an_engagement(f"u{n}", "i0", NOON + n * HOUR, request_id="of another") for n in range(30)
    ]
    catalogue = [an_entry(f"i{n}", NOON - DAY) for n in range(45)]
    catalogue.append(an_entry("i44", NOON + HOUR, deleted=True))
    unique = {row["event_id"]: row for row in [*imported, *engagements]}
    return a_lake(
        data_dir,
        engagements=list(unique.values()), impressions=impressions, catalogue=catalogue,
    )  # fmt: skip


def rows_of(out: Path) -> list[dict[str, Any]]:
    """All examples by id."""
    rows: list[dict[str, Any]] = open_examples(out).to_table().to_pylist()
    return sorted(rows, key=lambda row: str(row["example_id"]))


def in_parts(n_parts: int) -> Any:
    """The parts of this process, as many as asked for."""

    def make(connection: duckdb.DuckDBPyConnection, sources: ExampleSources) -> Counter[str]:
        rules = replace(sources.rules, n_parts=n_parts)
        return make_parts_here(connection, replace(sources, rules=rules))

    return make


def test_a_set_has_every_stage_its_documented_columns_and_its_report(tmp_path: Path) -> None:
    """What is in the files is what the report counts."""
    settings = a_busy_lake(tmp_path)
    report = make_examples(settings, until_ms=END, out=tmp_path / "set")
    table = open_examples(tmp_path / "set").to_table()
    assert table.schema.equals(EXAMPLES)
    for file in (tmp_path / "set").rglob("*.parquet"):
        stored = pq.read_schema(file)
        assert [stored.field(name).type for name in stored.names] == [
            EXAMPLES.field(name).type for name in stored.names
        ]
    assert Counter(table["stage"].to_pylist()) == report.by_stage
    assert set(report.by_stage) == {"shown", "scored", "retrieved", "organic", "random"}
    assert set(report.engagements) >= {"request", "user_item", "request_long_ago", "no_impression"}
    assert report.lake_versions == {"engagements": 1, "impressions": 1, "catalogue": 1}
    told = json.loads((tmp_path / "set" / "_report.json").read_text())
    assert told == report.as_dict()
    rows = rows_of(tmp_path / "set")
    assert all(row["label_end_ms"] <= END for row in rows)
    assert {row["user_bucket"] for row in rows} == set(range(report.n_user_buckets))
    assert all(row["known_ms"] is None or row["known_ms"] <= row["timestamp_ms"] for row in rows)
    assert {row["log_q"] is not None for row in rows if row["stage"] == "random"} == {True}
    retrieved = {(row["log_q"], row["score"]) for row in rows if row["stage"] == "retrieved"}
    assert retrieved == {(math.log(1 / 10), None)}
    assert not any(row["item_id"] == "i44" for row in rows if row["timestamp_ms"] > NOON + HOUR)
    shown = [row for row in rows if row["stage"] == "shown"]
    assert {row["position"] for row in shown} == set(range(6))
    assert {row["context"][0] for row in shown} == {("device", "phone")}
    assert not list(tmp_path.glob(".set.making"))
    assert not (tmp_path / "tmp").exists()


def test_more_parts_and_another_time_make_the_same_examples(tmp_path: Path) -> None:
    """So what is made in parts, or again after a crash, can be compared row by row."""
    settings = a_busy_lake(tmp_path)
    one = make_examples(settings, until_ms=END, out=tmp_path / "one")
    many = make_examples(settings, until_ms=END, out=tmp_path / "many", make_parts=in_parts(5))
    assert rows_of(tmp_path / "one") == rows_of(tmp_path / "many")
    assert (one.left_out, one.engagements) == (many.left_out, many.engagements)
    again = make_examples(settings, until_ms=END, out=tmp_path / "many")
    assert rows_of(tmp_path / "many") == rows_of(tmp_path / "one")
    assert again.by_stage == one.by_stage


def test_what_happens_later_changes_no_earlier_example(tmp_path: Path) -> None:
    """The same moments in a set that goes on longer are the same, to the last value."""
    settings = a_busy_lake(tmp_path)
    make_examples(settings, until_ms=NOON + DAY, out=tmp_path / "early")
    make_examples(settings, until_ms=END, out=tmp_path / "later")
    later = {row["example_id"]: row for row in rows_of(tmp_path / "later")}
    early = rows_of(tmp_path / "early")
    assert len(early) > 500
    assert [row for row in early if later.get(row["example_id"]) != row] == []


def test_a_set_that_leaks_is_never_shown(tmp_path: Path) -> None:
    """The earlier set stays, and nothing of the refused one lies about."""
    settings = a_busy_lake(tmp_path)
    make_examples(settings, until_ms=END, out=tmp_path / "set")
    before = rows_of(tmp_path / "set")

    def leaking(connection: duckdb.DuckDBPyConnection, sources: ExampleSources) -> Counter[str]:
        # A window that the cutoff cuts off: labels of the last moments would be incomplete.
        rules = replace(sources.rules, closed_live_ms=END + HOUR)
        return make_parts_here(connection, replace(sources, rules=rules))

    with pytest.raises(DataRefused, match="label_end_ms"):
        make_examples(settings, until_ms=END - 40 * HOUR, out=tmp_path / "set", make_parts=leaking)
    assert rows_of(tmp_path / "set") == before
    assert {path.name for path in tmp_path.iterdir()} == {"lake", "set", ".set.lock"}


def test_a_part_that_was_written_twice_is_found(tmp_path: Path) -> None:
    """As after a lost task that another run of it did not clean up behind."""
    settings = a_busy_lake(tmp_path)

    def doubling(connection: duckdb.DuckDBPyConnection, sources: ExampleSources) -> Counter[str]:
        made = make_parts_here(connection, sources)
        for file in list(sources.out.rglob("part-0-*.parquet")):
            file.rename(file.with_name(f"kept-{file.name}"))
        make_item_part(connection, sources.parts, 0, sources.rules, sources.out)
        return made

    with pytest.raises(StoreError, match="came out twice"):
        make_examples(settings, until_ms=END, out=tmp_path / "set", make_parts=doubling)
    assert not (tmp_path / "set").exists()


def test_an_event_that_the_lake_has_twice_makes_one_example(tmp_path: Path) -> None:
    """As one that was sent again after longer than the archiver remembers ids."""
    act = an_engagement("u", "a", NOON + 5_000)
    slate = an_impression("u", ["a", "b"], NOON)
    visit = an_engagement("v", "c", NOON)
    again = {"sequence": 10**15, "log_offset": 10**15}
    last = an_engagement("w", "d", NOON + DAY)
    settings = a_lake(
        tmp_path,
        engagements=[act, visit, last, act | again, visit | again],
        impressions=[slate, slate | again],
    )
    report = make_examples(settings, until_ms=None, out=tmp_path / "set", options=ExampleOptions(0))
    assert report.by_stage == {"shown": 2, "organic": 1}
    assert report.labels_by_kind == {"click": 2}
    assert report.left_out["events_repeated"] == 3


def test_a_directory_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """Only an earlier set may be replaced."""
    settings = a_busy_lake(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not a set of examples"):
        make_examples(settings, until_ms=END, out=tmp_path / "mine")
    assert (tmp_path / "mine" / "letter.txt").read_text() == "dear"


def test_a_lake_without_engagements_says_what_to_do(tmp_path: Path) -> None:
    """An empty lake, and one whose engagements are all later than the cutoff."""
    with pytest.raises(DataError, match="cluster import"):
        make_examples(Settings(data_dir=tmp_path), until_ms=None, out=tmp_path / "set")
    settings = a_lake(tmp_path, engagements=[an_engagement("u", "a", NOON)])
    with pytest.raises(DataError, match=f"before {NOON} ms"):
        make_examples(settings, until_ms=NOON, out=tmp_path / "set")


def test_imported_history_alone_makes_organic_examples(tmp_path: Path) -> None:
    """Each as of its own time, though all of it became known to us with the import."""
    rows = [an_imported("u", f"i{n}", NOON - DAY + n * HOUR) for n in range(5)]
    settings = a_lake(tmp_path, engagements=rows)
    make_examples(settings, until_ms=None, out=tmp_path / "set", options=ExampleOptions(0))
    found = {row["item_id"]: row for row in rows_of(tmp_path / "set")}
    assert set(found) == {"i0", "i1", "i2", "i3"}
    assert found["i3"]["history_items"] == ["i0", "i1", "i2"]
    assert found["i3"]["user_positives_86400s"] == 3
    assert found["i3"]["user_event_ms"] == NOON - DAY + 2 * HOUR


def test_the_verb_writes_the_set_it_is_asked_for(tmp_path: Path) -> None:
    """Without random items and visits, to where sets lie by default; the text says what is out."""
    settings = a_busy_lake(tmp_path)
    outcome = write_examples(settings, until_ms=END, n_random=0, organic=False)
    assert outcome.error is None
    assert set(outcome.document["by_stage"]) == {"shown", "scored", "retrieved"}
    assert outcome.document["left_out"]["engagements_not_used"] > 0
    assert "left out" in outcome.text
    stages = open_examples(tmp_path / "examples").to_table(columns=["stage"])
    assert Counter(stages["stage"].to_pylist()) == outcome.document["by_stage"]


def test_columns_that_an_old_file_of_the_lake_lacks_are_null(tmp_path: Path) -> None:
    """Evolution adds columns; a task that reads one file reads those of before all the same."""
    file = tmp_path / "old.parquet"
    row = an_engagement("u", "a", NOON)
    pq.write_table(pa.Table.from_pylist([{k: v for k, v in row.items() if k != "origin"}]), file)
    with duckdb.connect() as connection:
        attach_file(connection, "lake_file", "engagements", str(file))
        found = connection.sql("SELECT event_id, origin, value FROM lake_file").fetchall()
    assert found == [(row["event_id"], None, None)]


def test_engagements_that_came_too_late_online_are_the_same_here(tmp_path: Path) -> None:
    """By partition, in the order of the log, against the columns' own definition."""
    rng = np.random.default_rng(5)
    rows = [
        an_engagement(
            "u", f"i{n}", NOON - int(rng.integers(0, 3 * HOUR)),
            received_at_ms=NOON - int(rng.integers(0, 3 * HOUR)), log_partition=n % 3,
            log_offset=n, event_id=f"e{n:03d}",
        )
        for n in range(200)
    ]  # fmt: skip
    columns = ("log_partition", "timestamp_ms", "received_at_ms")
    late = late_events(*(np.array([row[name] for row in rows]) for name in columns), HOUR)
    with duckdb.connect() as connection:
        connection.register("log_rows", pa.Table.from_pylist([*rows, an_imported("u", "a", 0)]))
        parts = StagedParts(tmp_path)
        stage_late_events(connection, parts, "log_rows", HOUR)
        found = connection.sql(f"SELECT event_id FROM '{parts.late_events}'").fetchall()
    assert sorted(row[0] for row in found) == [f"e{n:03d}" for n in np.flatnonzero(late)]
    assert 0 < len(found) < len(rows)
