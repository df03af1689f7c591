"""What is compacted, trimmed and deleted, decided without touching a store."""

from __future__ import annotations

import duckdb
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from train_app.lake.upkeep.compaction import days_to_compact
from train_app.lake.upkeep.lake_forgetting import Forgetting
from train_app.lake.upkeep.lake_retention import log_files_to_delete
from train_app.lake.upkeep.log_trimming import record_time_ms, taken_by_all, trim_before
from train_app.lake.upkeep.offset_check import offset_problems

MB = 1_000_000


def test_only_days_with_too_many_small_files_are_compacted() -> None:
    """Large files do not count, and the most crowded day comes first."""
    sizes = {
        "2024-01-01": [MB] * 3,
        "2024-01-02": [MB] * 4,
        "2024-01-03": [70 * MB] * 9,
        "2024-01-04": [MB] * 5 + [128 * MB],
    }
    assert days_to_compact(sizes, 3, 128 * MB) == ["2024-01-04", "2024-01-02"]


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 120))
def test_only_old_records_that_all_have_taken_are_trimmed(begin: int, n: int, old: int) -> None:
    """The first record that stays is not old, or is the first somebody needs."""
    taken = begin + n
    before = trim_before(begin, taken, lambda offset: offset < old)
    assert before == min(max(begin, old), taken)


def test_who_has_taken_nothing_holds_the_whole_log() -> None:
    """A follower that never ran counts as being at the beginning."""
    taken = [{0: 9, 1: 4}, {0: 7}]
    assert [taken_by_all(taken, partition) for partition in (0, 1, 2)] == [7, 0, 0]
    assert taken_by_all([], 0) == 0


def test_the_time_of_a_record_is_when_it_was_received() -> None:
    """A void record says no time."""
    assert record_time_ms(b'{"type":"engagement","timestamp":5,"received_at":9}') == 9
    assert record_time_ms(b'{"type":"outcome","timestamp":5}') == 5
    assert record_time_ms(b'{"type":"void"}') is None
    assert record_time_ms(b"broken") is None


def log_name(version: int, suffix: str = "json") -> str:
    """A file name of a Delta log."""
    return f"{version:020}.{suffix}"


def test_commits_are_kept_that_a_needed_version_is_read_with() -> None:
    """Down to the newest checkpoint at or below the oldest needed version."""
    names = [log_name(v) for v in range(300)]
    names += [log_name(v, "checkpoint.parquet") for v in (99, 199, 299)] + ["_last_checkpoint"]
    assert log_files_to_delete(names, [50], 299) == []
    doomed = log_files_to_delete(names, [205, 260], 299)
    assert doomed[-1] == log_name(198)
    assert len(doomed) == 199 + 1
    assert log_name(99, "checkpoint.parquet") in doomed
    assert len(log_files_to_delete(names, [], 299)) == 299 + 2


def problems_of(
    rows: list[int], notes: list[tuple[str, int, int]], end: int, more: list[int] | None = None
) -> list[str]:
    """The problems of one partition with these rows in two tables, and these notes."""
    connection = duckdb.connect()
    for name, offsets in (("a", rows), ("b", more or [])):
        table = pa.table(
            {
                "log_partition": pa.array([0] * len(offsets), pa.int32()),
                "log_offset": pa.array(offsets, pa.int64()),
            }
        )
        connection.register(name, table)
    skipped = pa.table(
        {
            "log_partition": pa.array([0] * len(notes), pa.int32()),
            "reason": pa.array([reason for reason, _, _ in notes], pa.string()),
            "log_offset": pa.array([first for _, first, _ in notes], pa.int64()),
            "end_offset": pa.array([stop for _, _, stop in notes], pa.int64()),
        }
    )
    connection.register("skipped", skipped)
    return offset_problems(connection, 0, ["skipped", "a", "b"], end, max(end, 12), per_slice=5)


def test_every_offset_has_to_be_somewhere_and_only_once() -> None:
    """Holes and doubles are found on both sides of a slice's edge; notes account for offsets."""
    assert problems_of([0, 1, 5], [("gap", 2, 5), ("repeated", 6, 7)], 7, [7, 11]) == []
    (hole,) = problems_of([0, 1, 2, 3, 6], [], 7)
    assert "2 offsets are in no table" in hole
    assert hole.endswith(": 4, 5")
    (double,) = problems_of([0, 1, 2], [], 3, [1, 2])
    assert "2 offsets are in the lake more than once: 1 to 2" in double
    (within,) = problems_of([0, 1, 1], [], 2)
    assert "more than once: 1" in within
    (both,) = problems_of([0, 1], [("repeated", 1, 2)], 2)
    assert "noted as skipped: 1" in both
    (unfinished,) = problems_of([0, 1], [("forgotten", 1, 2)], 2)
    assert "run 'cluster events forget' again" in unfinished


def test_a_user_id_cannot_escape_its_condition() -> None:
    """Quotes are text, for DuckDB and Delta alike."""
    rows = pa.table(
        {
            "user_id": ["a'b", "x", "y"],
            "raw": ["", '{"user_id":"a\'b"}', '{"user_id": "é"}'],
            "log_partition": pa.array([0, 0, None], pa.int32()),
            "log_offset": pa.array([3, 4, None], pa.int64()),
        }
    )
    connection = duckdb.connect()
    connection.register("rows", rows)

    def found(forgetting: Forgetting, table: str) -> list[str]:
        condition = forgetting.condition(table)
        query = f"SELECT user_id FROM rows WHERE {condition} ORDER BY 1"
        return [row[0] for row in connection.execute(query).fetchall()]

    assert found(Forgetting("a'b"), "outcomes") == ["a'b"]
    assert found(Forgetting("a'b", 0, 3), "outcomes") == []
    assert found(Forgetting("a'b", 0, 4), "outcomes") == ["a'b"]
    assert found(Forgetting("' OR 1=1 --"), "outcomes") == []
    assert found(Forgetting("a'b"), "quarantine") == ["a'b", "x"]
    assert found(Forgetting("é", 0, 1), "quarantine") == ["y"]


def test_a_refused_row_of_a_file_is_found_by_its_owner_or_by_a_whole_field() -> None:
    """A part of a field is somebody else, and a row that says whose it is needs no guess."""
    texts = {
        "zed-1,i,never": None, "i;zed-1": None, "i\tzed-1\tx": None, '"zed-1",i': None,
        "x::zed-1::3": None, "user_id=zed-1, item_id=": None, "a|zed-1|b": None,
        "zed-12,i": None, "a zed-1b,i": None, "zed.1,i": None, "other,zed-1": "other",
        "split,,badly": "zed-1",
    }  # fmt: skip
    rows = pa.table(
        {
            "raw": list(texts),
            "user_id": pa.array(texts.values(), pa.string()),
            "log_partition": pa.nulls(len(texts), pa.int32()),
            "log_offset": pa.nulls(len(texts), pa.int64()),
        }
    )
    connection = duckdb.connect()
    connection.register("rows", rows)
    condition = Forgetting("zed-1").condition("quarantine")
    found = connection.execute(f"SELECT raw FROM rows WHERE {condition}").fetchall()
    kept = {"zed-12,i", "a zed-1b,i", "zed.1,i", "other,zed-1"}
    assert {raw for (raw,) in found} == set(texts) - kept
