"""One contract for lakes in folders, behind file URLs and in real S3."""

from __future__ import annotations

import threading
from datetime import date

import duckdb
import pyarrow as pa
import pyarrow.fs as pa_fs
import pytest
from deltalake import write_deltalake

from recsys.errors import StoreError
from recsys.settings import LakeSettings
from tests.s3_server import S3Server
from train_app.examples.example_inputs import attach_file
from train_app.lake.lake_files import files_of
from train_app.lake.lake_rows import append_import, complete_rows
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.lake.upkeep.compaction import compact_lake
from train_app.lake.upkeep.lake_forgetting import forget_in_lake

DAY_MS = 86_400_000


def some_rows(*times_ms: int) -> pa.Table:
    """Outcome rows at these times."""
    rows = pa.table(
        {
            "event_id": [f"e{time_ms}" for time_ms in times_ms],
            "timestamp_ms": list(times_ms),
            "sequence": list(range(len(times_ms))),
        }
    )
    return complete_rows("outcomes", rows, "timestamp_ms", user_id="u", status=503)


def ids_in(table: LakeTable | None, **days: date) -> list[str]:
    """The event ids of a table."""
    assert table is not None
    connection = duckdb.connect()
    table.attach(connection, "rows", **days)
    query = "SELECT event_id FROM rows ORDER BY event_id"
    return [row[0] for row in connection.sql(query).fetchall()]


def data_files(url: str) -> list[str]:
    """Every data file of the outcomes, those of no version included."""
    filesystem, root = files_of(f"{url}/outcomes")
    found = filesystem.get_file_info(pa_fs.FileSelector(root, allow_not_found=True, recursive=True))
    return [entry.path for entry in found if entry.path.endswith(".parquet")]


def an_older_lake(url: str, without: str) -> Lake:
    """A lake whose outcomes were made before a column was documented, with one row."""
    lake = Lake(url)
    older = pa.schema([column for column in TABLES["outcomes"] if column.name != without])
    location = f"{lake.location}/outcomes"
    write_deltalake(location, some_rows(1).select(older.names), partition_by="event_date")
    return lake


def test_one_commit_shows_all_days_and_days_can_be_read_alone(lake_url: str) -> None:
    """Rows of several days become one version, one file a day, with the columns documented."""
    lake = Lake(lake_url)
    assert lake.find("outcomes") is None
    n_rows = append_import(lake, "outcomes", [some_rows(0, 5, DAY_MS, 3 * DAY_MS)], None, {})
    table = lake.find("outcomes")
    assert table is not None
    assert (n_rows, table.version, table.mark("import")) == (4, 1, 1)
    assert len(table.files()) == 3
    assert ids_in(table) == ["e0", "e259200000", "e5", "e86400000"]
    assert ids_in(table, first=date(1970, 1, 2), last=date(1970, 1, 3)) == ["e86400000"]
    comments = {column.name: column.metadata["comment"] for column in table.delta.schema().fields}
    assert comments["latency_ms"] == "milliseconds"


def test_an_append_that_fails_leaves_nothing_behind(lake_url: str) -> None:
    """Files of an append are removed when it does not come to its commit."""
    lake = Lake(lake_url)
    table = lake.open("outcomes")
    with pytest.raises(StoreError, match="No space left"), lake.append(table) as append:
        append.write(some_rows(0, DAY_MS))
        raise OSError(28, "No space left on device")
    assert data_files(lake_url) == []
    assert ids_in(lake.find("outcomes")) == []


def test_of_two_writers_from_the_same_mark_only_one_commits(lake_url: str) -> None:
    """The loser is told so and leaves no rows and no files."""
    lake = Lake(lake_url)
    first, second = lake.open("outcomes"), lake.open("outcomes")
    with lake.append(first) as append:
        append.write(some_rows(1))
        append.commit({"log-0": (None, 10)}, {})
    with pytest.raises(StoreError, match="another writer"), lake.append(second) as append:
        append.write(some_rows(2))
        append.commit({"log-0": (None, 10)}, {})
    fresh = lake.open("outcomes")
    with pytest.raises(StoreError, match="another writer"), lake.append(fresh) as append:
        append.write(some_rows(3))
        append.commit({"log-0": (None, 10)}, {})
    assert ids_in(lake.find("outcomes")) == ["e1"]
    assert len(data_files(lake_url)) == 1


def test_writers_with_different_marks_do_not_hinder_each_other(lake_url: str) -> None:
    """An import and the archiver append to one table at the same time."""
    lake = Lake(lake_url)
    archiver, importer = lake.open("outcomes"), lake.open("outcomes")
    for table, mark, row in ((archiver, "log-0", 1), (importer, "import", 2)):
        with lake.append(table) as append:
            append.write(some_rows(row))
            append.commit({mark: (None, 1)}, {})
    assert ids_in(lake.find("outcomes")) == ["e1", "e2"]


def test_a_lake_from_before_a_column_gets_it_with_the_next_commit(lake_url: str) -> None:
    """Old rows read as null, before and after; an older version keeps its older columns."""
    lake = an_older_lake(lake_url, "latency_ms")
    query = "SELECT event_id, latency_ms FROM rows ORDER BY event_id"
    for expected in ([("e1", None)], [("e1", None), ("e2", 7.0)]):
        table = lake.find("outcomes")
        assert table is not None
        connection = duckdb.connect()
        table.attach(connection, "rows")
        assert connection.execute(query).fetchall() == expected
        rows = some_rows(2).set_column(
            TABLES["outcomes"].get_field_index("latency_ms"), "latency_ms", pa.array([7.0])
        )
        if len(expected) == 1:
            append_import(lake, "outcomes", [rows], None, {})
    newest, oldest = lake.find("outcomes"), lake.find("outcomes", version=0)
    assert newest is not None
    assert oldest is not None
    assert {f.name for f in newest.delta.schema().fields} == set(TABLES["outcomes"].names)
    assert "latency_ms" not in {f.name for f in oldest.delta.schema().fields}


def test_a_lake_of_a_newer_release_is_still_written_to(lake_url: str) -> None:
    """Columns this release does not know are kept, and null in its rows."""
    lake = Lake(lake_url)
    newer = some_rows(1).append_column("mood", pa.array(["good"]))
    write_deltalake(f"{lake.location}/outcomes", newer, partition_by="event_date")
    append_import(lake, "outcomes", [some_rows(2)], None, {})
    table = lake.find("outcomes")
    assert table is not None
    assert "mood" in {field.name for field in table.delta.schema().fields}
    connection = duckdb.connect()
    table.attach(connection, "rows")
    query = "SELECT event_id, mood FROM rows ORDER BY event_id"
    assert connection.execute(query).fetchall() == [("e1", "good"), ("e2", None)]


def test_two_writers_may_add_the_same_column_at_once(lake_url: str) -> None:
    """Who comes second finds it there."""
    lake = an_older_lake(lake_url, "latency_ms")
    tables = [lake.open("outcomes"), lake.open("outcomes")]
    for number, table in enumerate(tables):
        with lake.append(table) as append:
            append.write(some_rows(2 + number))
            append.commit({f"log-{number}": (None, 1)}, {})
    assert ids_in(lake.find("outcomes")) == ["e1", "e2", "e3"]


def test_a_commit_that_only_seems_to_fail_keeps_its_files(lake_url: str) -> None:
    """What is done after a commit, such as its checkpoint, may fail without undoing it."""
    lake = Lake(lake_url)
    table = lake.open("outcomes")

    class FailingAfterwards:
        """A table whose commits get through and report a failure."""

        def __getattr__(self, name: str) -> object:
            return getattr(table.delta, name)

        def create_write_transaction(self, *args: object, **options: object) -> None:
            table.delta.create_write_transaction(*args, **options)
            raise OSError(28, "No space left on device")

    doubtful = LakeTable("outcomes", FailingAfterwards(), table.location)
    with lake.append(doubtful) as append:
        append.write(some_rows(1))
        append.commit({"log-0": (None, 1)}, {})
    assert ids_in(lake.find("outcomes")) == ["e1"]


def test_of_writers_at_once_every_commit_counts(lake_url: str) -> None:
    """Commits are conditional puts: a loser looks again and comes after."""
    lake = Lake(lake_url)
    lake.open("outcomes")
    start = threading.Barrier(4)
    errors: list[BaseException] = []

    def write(number: int) -> None:
        try:
            table = Lake(lake_url).open("outcomes")
            start.wait()
            for turn in range(3):
                table.refresh()
                with lake.append(table) as append:
                    append.write(some_rows(10 * number + turn))
                    append.commit({f"log-{number}": (turn or None, turn + 1)}, {})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ids_in(lake.find("outcomes"))) == 12


def test_a_column_that_is_null_everywhere_is_null_to_a_condition(lake_url: str) -> None:
    """Files say nothing of the nulls they hold, so no condition may be decided by them."""
    lake = Lake(lake_url)
    append_import(lake, "outcomes", [some_rows(1, 2)], None, {})
    table = lake.find("outcomes")
    assert table is not None
    connection = duckdb.connect()
    table.attach(connection, "rows")
    for column in ("log_partition", "log_offset", "request_id"):
        query = f"SELECT count(*) FROM rows WHERE {column} IS"
        assert connection.execute(f"{query} NOT NULL").fetchall() == [(0,)]
        assert connection.execute(f"{query} NULL").fetchall() == [(2,)]


def test_files_are_read_one_by_one_compacted_and_a_person_leaves(lake_url: str) -> None:
    """What training, upkeep and forgetting do beside appends."""
    lake = Lake(lake_url)
    for time_ms in range(4):
        append_import(lake, "outcomes", [some_rows(time_ms)], time_ms or None, {})
    table = lake.find("outcomes")
    assert table is not None
    connection = duckdb.connect()
    attach_file(connection, "one_file", "outcomes", table.files()[0])
    assert connection.execute("SELECT count(*) FROM one_file").fetchall() == [(1,)]
    report = compact_lake(lake, LakeSettings(compact_files=2))
    assert (report.n_removed, report.n_added) == (4, 1)
    assert ids_in(lake.find("outcomes")) == ["e0", "e1", "e2", "e3"]
    counts = forget_in_lake(lake, "u", now_ms=9)
    assert counts["outcomes"] == 4
    assert ids_in(lake.find("outcomes")) == []


def test_a_store_that_is_away_is_an_error_and_no_empty_lake(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody begins a lake anew beside one that cannot be seen."""
    lake = Lake(f"{s3.new_url()}/lake")
    append_import(lake, "outcomes", [some_rows(1)], None, {})
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    with pytest.raises(StoreError, match="outcomes") as told:
        lake.find("outcomes")
    assert "wrong-secret" not in str(told.value)
    with pytest.raises(StoreError):
        lake.open("outcomes")
