"""What replicas read from the control store and report to it."""

from __future__ import annotations

import json
import sqlite3
import threading
from pathlib import Path

import pytest

from recsys.errors import ConfigError, StoreError
from recsys.stores import control_tables as tables
from recsys.stores.control import (
    NO_BUNDLE,
    ControlReader,
    ControlView,
    Readiness,
    ReadinessReporter,
)
from recsys.traffic import TrafficPlan


def url_in(folder: Path) -> str:
    """A control store that does not exist yet."""
    return f"sqlite:///{folder / 'control.sqlite'}"


def write(url: str, plan: TrafficPlan, required: tuple[str, ...] = (), stable: str = "b1") -> None:
    """Put a state into the store, as its writer would."""
    engine = tables.open_engine(url, writes=True)
    tables.create_tables(engine)
    with engine.begin() as connection:
        for table in (tables.plans, tables.required, tables.aliases):
            connection.execute(table.delete())
        document = json.dumps(plan.to_json())
        connection.execute(tables.plans.insert().values(id=1, epoch=plan.epoch, document=document))
        for position, bundle_id in enumerate(required):
            connection.execute(
                tables.required.insert().values(position=position, bundle_id=bundle_id)
            )
        connection.execute(tables.aliases.insert().values(name="stable", bundle_id=stable))
        tables.bump_revision(connection)


def test_a_store_that_was_never_written_reads_as_empty_and_stays_unwritten(tmp_path: Path) -> None:
    """A replica may start first; it must not race the writer."""
    reader = ControlReader(url_in(tmp_path / "absent"))
    assert reader.view() == ControlView()
    assert reader.readiness() == []
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_tables_reads_as_empty(tmp_path: Path) -> None:
    """A file the writer has opened and not filled yet."""
    (tmp_path / "control.sqlite").touch()
    reader = ControlReader(url_in(tmp_path))
    assert reader.view() == ControlView()
    assert reader.readiness() == []


def test_a_view_is_what_was_written_and_follows_changes(tmp_path: Path) -> None:
    """Also when the reader was there before the store."""
    url = url_in(tmp_path)
    reader = ControlReader(url)
    assert reader.view().plan is None
    plan = TrafficPlan.single("b1", 1, "s")
    write(url, plan, ("b1", "b0"))
    view = reader.view()
    assert view == ControlView(plan, ("b1", "b0"), {"stable": "b1"}, 1)
    assert reader.view() is view
    write(url, TrafficPlan.single("b2", 2, "s"), ("b2",), "b2")
    assert reader.view() == ControlView(
        TrafficPlan.single("b2", 2, "s"), ("b2",), {"stable": "b2"}, 2
    )


def test_a_store_that_is_no_database_is_a_store_error(tmp_path: Path) -> None:
    """With the store's name; a caller keeps its last view."""
    (tmp_path / "control.sqlite").write_bytes(b"this is no database" * 100)
    for call in (
        ControlReader(url_in(tmp_path)).view,
        ControlReader(url_in(tmp_path)).readiness,
        lambda: ReadinessReporter(url_in(tmp_path)).forget("r1"),
    ):
        with pytest.raises(StoreError, match=r"control\.sqlite"):
            call()


def test_a_reader_recovers_when_the_store_comes_back(tmp_path: Path) -> None:
    """One failed poll is only one failed poll."""
    url = url_in(tmp_path)
    plan = TrafficPlan.single("b1", 1, "s")
    write(url, plan)
    reader = ControlReader(url)
    assert reader.view().plan == plan
    (tmp_path / "control.sqlite").rename(tmp_path / "away")
    (tmp_path / "control.sqlite").mkdir()
    with pytest.raises(StoreError):
        reader.view()
    (tmp_path / "control.sqlite").rmdir()
    (tmp_path / "away").rename(tmp_path / "control.sqlite")
    assert reader.view().plan == plan


@pytest.mark.parametrize("document", ["{", "[]", '{"epoch": 1}', "null"])
def test_an_unreadable_plan_is_a_store_error(tmp_path: Path, document: str) -> None:
    """Never a plan of guesses."""
    url = url_in(tmp_path)
    write(url, TrafficPlan.single("b1", 1, "s"))
    with sqlite3.connect(tmp_path / "control.sqlite") as connection:
        connection.execute("UPDATE control_plan SET document = ?", (document,))
        connection.execute("UPDATE control_head SET revision = 9")
    connection.close()
    with pytest.raises(StoreError, match="traffic plan"):
        ControlReader(url).view()


def test_a_url_without_a_driver_is_a_settings_error() -> None:
    """Named, with what was expected."""
    with pytest.raises(ConfigError, match="SQLAlchemy URL"):
        ControlReader("not a url")


def test_a_report_replaces_what_the_replica_said_before(tmp_path: Path) -> None:
    """And touches no other replica's rows."""
    url = url_in(tmp_path)
    reporter, reader = ReadinessReporter(url), ControlReader(url)
    reporter.report("g1", "gateway", {"b1": ("ready", ""), "b2": ("loading", "")}, 1, 100)
    reporter.report("s1", "scorer", {}, 0, 150)
    reporter.report("g1", "gateway", {"b2": ("failed", "no space")}, 2, 200)
    assert sorted(reader.readiness(), key=lambda row: row.replica_id) == [
        Readiness("g1", "gateway", "b2", "failed", "no space", 2, 200),
        Readiness("s1", "scorer", NO_BUNDLE, "loading", "", 0, 150),
    ]
    reporter.forget("g1")
    assert [row.replica_id for row in reader.readiness()] == ["s1"]


def test_a_report_does_not_wake_pollers(tmp_path: Path) -> None:
    """Heartbeats are not changes of the plan."""
    url = url_in(tmp_path)
    write(url, TrafficPlan.single("b1", 1, "s"))
    reader = ControlReader(url)
    view = reader.view()
    ReadinessReporter(url).report("g1", "gateway", {"b1": ("ready", "")}, 1, 100)
    assert reader.view() is view


def test_an_unknown_state_is_refused(tmp_path: Path) -> None:
    """Nobody would know what it means."""
    with pytest.raises(StoreError, match="'fine', expected one of loading"):
        ReadinessReporter(url_in(tmp_path)).report("g1", "gateway", {"b1": ("fine", "")}, 1, 1)


def test_many_processes_may_be_the_first(tmp_path: Path) -> None:
    """Whoever makes the tables, everybody's report arrives."""
    url = url_in(tmp_path)
    start = threading.Barrier(8)
    errors: list[Exception] = []

    def report(number: int) -> None:
        start.wait()
        try:
            ReadinessReporter(url).report(f"g{number}", "gateway", {"b1": ("ready", "")}, 1, 1)
        except StoreError as error:
            errors.append(error)

    threads = [threading.Thread(target=report, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len(ControlReader(url).readiness()) == 8


def test_a_store_that_was_replaced_is_read_anew(tmp_path: Path) -> None:
    """An open connection does not hold on to a deleted file."""
    url = url_in(tmp_path)
    write(url, TrafficPlan.single("b1", 1, "s"))
    reader, reporter = ControlReader(url), ReadinessReporter(url)
    reader.view()
    reporter.report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    for path in tmp_path.iterdir():
        path.unlink()
    plan = TrafficPlan.single("b2", 2, "s")
    write(url, plan)
    write(url, plan)
    assert reader.view().plan == plan
    reporter.report("g2", "gateway", {"b1": ("ready", "")}, 1, 1)
    assert [row.replica_id for row in reader.readiness()] == ["g2"]
