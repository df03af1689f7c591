"""Imports: each row once however often they run, whenever they die."""

from __future__ import annotations

import resource
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from recsys.errors import DataError, StoreError
from recsys.settings import Settings
from recsys.stores.features.feature_store import SqliteFeatureStore
from train_app.importing.import_history import ImportOptions, run_import
from train_app.importing.import_report import ImportReport
from train_app.lake.lake_rows import append_import, complete_rows
from train_app.lake.lake_tables import Lake

pytestmark = pytest.mark.integration

NOW_MS = 1_700_000_000_000
START_S = 1_600_000_000


def a_csv(path: Path, n_rows: int, n_users: int = 5, first: int = 0, step_s: int = 20_000) -> Path:
    """Rows of distinct times over several days, every tenth one written twice."""
    lines = ["user,item,time,event"]
    for row in range(first, first + n_rows):
        line = (
            f"u{row % n_users},i{row % 7},{START_S + row * step_s},{'view' if row % 3 else 'buy'}"
        )
        lines += [line] * (2 if row % 10 == 0 else 1)
    path.write_text("\n".join(lines) + "\n")
    return path


def do_import(
    data_dir: Path,
    source: Path,
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
    **options: Any,
) -> ImportReport:
    """Import with the rest of the options at their defaults."""
    return run_import(
        ImportOptions(source, **options), Settings(data_dir=data_dir), progress, lambda: NOW_MS
    )


def lake_rows(data_dir: Path, table: str, columns: str) -> list[tuple[object, ...]]:
    """Columns of a lake table, in order."""
    found = Lake(str(data_dir / "lake")).find(table)
    if found is None:
        return []
    connection = duckdb.connect()
    found.attach(connection, "rows")
    return connection.sql(f"SELECT {columns} FROM rows ORDER BY ALL").fetchall()


def history_of(data_dir: Path, user_id: str) -> list[tuple[str, int]]:
    """What the feature store holds of a user."""
    store = SqliteFeatureStore(Settings(data_dir=data_dir).feature_path)
    try:
        (state,) = store.read_users([user_id])
    finally:
        store.close()
    return [(event.item_id, event.timestamp_ms) for event in state.history]


def test_the_same_file_twice_changes_nothing(tmp_path: Path) -> None:
    """Duplicates in the file count once, and a second run finds everything there already."""
    source, data_dir = a_csv(tmp_path / "x.csv", 30), tmp_path / "var"
    first = do_import(data_dir, source)
    assert (first.n_rows, first.n_new, first.n_duplicates, first.n_known) == (33, 30, 3, 0)
    assert first.kinds == {"view": 22, "buy": 11}
    before = lake_rows(data_dir, "engagements", "*"), history_of(data_dir, "u1")
    assert len(before[0]) == 30
    assert [time_ms for _, time_ms in before[1]] == [
        (START_S + row * 20_000) * 1000 for row in (1, 6, 11, 16, 21, 26)
    ]
    again = do_import(data_dir, source)
    assert (again.n_new, again.n_duplicates, again.n_known) == (0, 3, 30)
    assert (lake_rows(data_dir, "engagements", "*"), history_of(data_dir, "u1")) == before
    assert not (data_dir / "tmp").exists()


def test_overlapping_files_add_only_their_new_rows(tmp_path: Path) -> None:
    """Whatever the order of the files, the lake ends with each row once."""
    data_dir = tmp_path / "var"
    do_import(data_dir, a_csv(tmp_path / "late.csv", 20, first=10))
    early = do_import(data_dir, a_csv(tmp_path / "early.csv", 20))
    assert (early.n_new, early.n_known) == (10, 10)
    times = lake_rows(data_dir, "engagements", "timestamp_ms")
    assert times == [((START_S + row * 20_000) * 1000,) for row in range(30)]


@pytest.mark.parametrize("stage", ["read", "write", "histories"])
def test_a_run_that_died_is_completed_by_running_it_again(tmp_path: Path, stage: str) -> None:
    """Before the commit nothing is visible; after it only the feature store is to be filled."""
    source, data_dir = a_csv(tmp_path / "x.csv", 30), tmp_path / "var"

    def die(now_at: str, done: int, total: int | None) -> None:
        if now_at == stage:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        do_import(data_dir, source, die)
    assert len(lake_rows(data_dir, "engagements", "*")) == (30 if stage == "histories" else 0)
    report = do_import(data_dir, source)
    assert report.n_new + report.n_known == 30
    assert len(lake_rows(data_dir, "engagements", "*")) == 30
    assert len(history_of(data_dir, "u1")) == 6
    n_days = len(lake_rows(data_dir, "engagements", "DISTINCT event_date"))
    assert len(list(data_dir.rglob("part-*.parquet"))) == n_days


def test_of_two_imports_at_once_one_is_refused_and_rows_count_once(tmp_path: Path) -> None:
    """The one that commits second has compared with a lake that is no longer the newest."""
    source, data_dir = a_csv(tmp_path / "x.csv", 30), tmp_path / "var"
    others = iter([source])

    def cross(stage: str, done: int, total: int | None) -> None:
        if stage == "write" and (other := next(others, None)):
            do_import(data_dir, other)

    with pytest.raises(StoreError, match="another writer"):
        do_import(data_dir, source, cross)
    assert len(lake_rows(data_dir, "engagements", "*")) == 30


def test_bad_rows_are_quarantined_once_with_line_and_reason(tmp_path: Path) -> None:
    """The rest of the file is imported, and the report shows examples."""
    source, data_dir = tmp_path / "x.csv", tmp_path / "var"
    source.write_bytes(b"user,item,time\nu,a,1600000000\n,b,1600000000\nu,c,later\nu,\xff,1\n")
    expected = [
        ("x.csv", 3, "user_id is empty", ",b,1600000000"),
        ("x.csv", 4, "timestamp is no number of s, ms, us or ns since 1970 and not ISO 8601",
         "u,c,later"),
        ("x.csv", 5, "is not UTF-8 text (convert the file: iconv -f latin1 -t utf-8)",
         "u,\\xff,1"),
    ]  # fmt: skip
    for _ in range(2):
        report = do_import(data_dir, source)
        assert (report.n_rows, report.n_quarantined) == (4, 3)
        assert lake_rows(data_dir, "quarantine", "source, line, reason, raw") == expected
    assert "x.csv line 4: u,c,later" in report.text()
    assert report.as_dict()["n_quarantined"] == 3


def test_a_file_of_only_bad_rows_fails_with_the_reasons(tmp_path: Path) -> None:
    """Nothing but the quarantine is written."""
    source = tmp_path / "x.csv"
    source.write_text("user,item\n,a\nu,\n")
    with pytest.raises(DataError, match=r"none of the 2 rows.*\n.*user_id is empty"):
        do_import(tmp_path / "var", source)
    assert lake_rows(tmp_path / "var", "engagements", "*") == []
    assert len(lake_rows(tmp_path / "var", "quarantine", "*")) == 2
    source.write_text("user,item\n\n")
    with pytest.raises(DataError, match="has no rows"):
        do_import(tmp_path / "var", source)


def test_a_dry_run_reports_the_same_and_writes_nothing(tmp_path: Path) -> None:
    """Counts as if, and no lake and no feature store."""
    source, data_dir = a_csv(tmp_path / "x.csv", 30), tmp_path / "var"
    source.write_text(source.read_text() + "u,,1600000000,view\n")
    report = do_import(data_dir, source, dry_run=True)
    assert (report.n_new, report.n_duplicates, report.n_quarantined) == (30, 3, 1)
    assert "would be imported" in report.text()
    assert [path for path in data_dir.rglob("*") if path.is_file()] == []


def test_without_times_the_order_of_the_file_is_the_time(tmp_path: Path) -> None:
    """Repeated rows are kept, the report says so, and a longer copy adds only its end."""
    source, data_dir = tmp_path / "x.csv", tmp_path / "var"
    source.write_text("u b\nu a\nu b\n")
    options: dict[str, Any] = {
        "header": False,
        "mapping": {"user_id": "1", "item_id": "2"},
        "kind": "play",
    }
    report = do_import(data_dir, source, **options)
    assert (report.n_new, report.kinds) == (3, {"play": 3})
    assert "the order of the file is the time" in report.text()
    source.write_text("u b\nu a\nu b\nu c\n")
    assert do_import(data_dir, source, **options).n_new == 1
    assert [item for item, _ in history_of(data_dir, "u")] == ["b", "a", "b", "c"]


def test_items_and_users_are_upserted_and_deleted_items_stay_deleted(tmp_path: Path) -> None:
    """Only new or changed entries are written; a delete from the log outlives an import."""
    source, data_dir = a_csv(tmp_path / "x.csv", 10), tmp_path / "var"
    items, users = tmp_path / "items.csv", tmp_path / "users.csv"
    items.write_text(
        "id,name,genres,brand,created_at\na,A,Drama| War,x,2020-01-01\nb,B,,,\nb,B2,Home,,bad\n"
        ",x,,,\n"
    )
    users.write_text("user,age,city\nu1,30,Paris\nu2,,\n")
    report = do_import(data_dir, source, items=items, users=users)
    assert report.items is not None and report.users is not None
    assert (report.items.n_rows, report.items.n_new, report.users.n_new) == (4, 2, 2)
    assert lake_rows(data_dir, "catalogue", "item_id, title, categories, creator, created_ms") == [
        ("a", "A", ["Drama", "War"], "x", 1_577_836_800_000),
        ("b", "B2", ["Home"], "", None),
    ]
    assert lake_rows(data_dir, "users", "user_id, attributes")[0] == (
        "u1", {"age": "30", "city": "Paris"},
    )  # fmt: skip
    lake = Lake(str(data_dir / "lake"))
    gone = complete_rows(
        "catalogue", _one_row(item_id="a", deleted=True), "timestamp_ms", timestamp_ms=NOW_MS + 1
    )
    append_import(lake, "catalogue", [gone], lake.open("catalogue").mark("import"), {})
    items.write_text("id,name\na,A changed\nb,B2\nc,C\n")
    again = do_import(data_dir, source, items=items, users=users)
    assert again.items is not None and again.users is not None
    assert (again.items.n_new, again.items.n_known, again.items.n_kept_deleted) == (2, 0, 1)
    assert (again.users.n_new, again.users.n_known) == (0, 2)


def test_a_disk_that_fills_up_is_an_error_and_nothing_is_half_visible(tmp_path: Path) -> None:
    """With more space the same import succeeds."""
    source, data_dir = a_csv(tmp_path / "x.csv", 3000, step_s=60), tmp_path / "var"
    with pytest.raises(StoreError, match="run it again"), _largest_file(32_768):
        do_import(data_dir, source)
    assert lake_rows(data_dir, "engagements", "*") == []
    assert do_import(data_dir, source).n_new == 3000


@contextmanager
def _largest_file(n_bytes: int) -> Generator[None]:
    """Writes beyond this size fail, as they do on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _one_row(**fields: object) -> pa.Table:
    return pa.Table.from_pylist([fields])
