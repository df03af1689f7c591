"""A lake whose impressions were made before dropped candidates were logged, and the log of then."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest
from deltalake import write_deltalake

from recsys.events import DroppedItem, Impression, encode_event
from recsys.settings import Settings
from tests.example_lake import DAY, HOUR, MINUTE, NOON, an_impression
from tests.lake_events import RecordLog, an_archiver, an_engagement, kafka_settings, turn_all
from train_app.examples.example_schema import open_examples
from train_app.examples.example_set import make_examples
from train_app.lake.lake_rows import complete_rows
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.compaction import compact_lake
from train_app.lake.upkeep.lake_forgetting import forget_in_lake

pytestmark = pytest.mark.integration
NEW_COLUMNS = ("dropped", "n_dropped", "experiments")


def an_older_lake(folder: Path) -> Settings:
    """Four impressions under the older schema, two of a user who leaves."""
    settings = kafka_settings(folder)
    older = pa.schema([one for one in TABLES["impressions"] if one.name not in NEW_COLUMNS])
    rows = [
        an_impression(user, ["a", "b"], NOON + n * MINUTE, ["c"], log_offset=n, sequence=n)
        for n, user in enumerate(["old", "leaving", "old", "leaving"])
    ]
    table = pa.Table.from_pylist(rows, pa.schema([f for f in older if f.name != "event_date"]))
    whole = complete_rows("impressions", table, "timestamp_ms").select(older.names)
    location = f"{settings.lake_location}/impressions"
    write_deltalake(location, whole.slice(0, 2), partition_by="event_date")
    write_deltalake(location, whole.slice(2), mode="append")
    return settings


def impressions_of(
    settings: Settings,
) -> list[tuple[str, int | None, int | None, list[str] | None]]:
    """User, drawn, dropped and experiments of every row, in the log's order."""
    table = Lake(settings.lake_location).find("impressions")
    assert table is not None
    with duckdb.connect() as connection:
        table.attach(connection, "rows")
        query = """SELECT user_id, len(dropped), n_dropped, experiments FROM rows
            ORDER BY timestamp_ms"""
        return connection.execute(query).fetchall()


def test_an_older_lake_takes_the_new_columns_and_old_rows_teach_as_before(tmp_path: Path) -> None:
    """Appended to from a log with records of both releases, compacted, and somebody forgotten."""
    settings = an_older_lake(tmp_path)
    assert impressions_of(settings) == [
        (user, None, None, None) for user in ("old", "leaving", "old", "leaving")
    ]
    log = RecordLog()
    drawn = DroppedItem(item_id="d", source="index", retrieval_score=0.1, retrieval_rank=210)
    slate = Impression(
        event_id="new", request_id="r-new", user_id="new", timestamp_ms=NOON + HOUR,
        bundle_id="b", variant="stable", slate=(), dropped=(drawn,), n_dropped=40,
        experiments=("x-1:control", "x-2:treatment"),
    )  # fmt: skip
    before = json.loads(encode_event(slate)) | {"event_id": "before", "timestamp": NOON + HOUR - 1}
    for name in NEW_COLUMNS:
        del before[name]
    log.put(0, "before", json.dumps(before).encode())
    log.put(0, "new", encode_event(slate))
    log.put(0, "last", encode_event(an_engagement("last", "other", NOON + 2 * DAY - MINUTE)))
    turn_all(an_archiver(log, tmp_path, settings))
    forget_in_lake(Lake(settings.lake_location), "leaving", now_ms=NOON)
    few = settings.lake.model_copy(update={"compact_files": 1})
    compact_lake(Lake(settings.lake_location), few)
    assert impressions_of(settings) == [
        ("old", None, None, None), ("old", None, None, None), ("new", 0, 0, []),
        ("new", 1, 40, ["x-1:control", "x-2:treatment"]),
    ]  # fmt: skip
    make_examples(settings, until_ms=NOON + 2 * DAY, out=tmp_path / "set")
    rows = open_examples(tmp_path / "set").to_table().to_pylist()
    found = sorted((row["user_id"], row["stage"], row["item_id"]) for row in rows)
    old = [("old", "scored", "c"), ("old", "shown", "a"), ("old", "shown", "b")]
    assert found == [("new", "retrieved", "d"), *sorted(2 * old)]
