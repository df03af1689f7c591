"""What replicas read from the control store and report to it."""

from __future__ import annotations

import threading

import pytest

from recsys.errors import ConfigError, StoreError
from recsys.stores.control import control_tables as tables
from recsys.stores.control.control import (
    NO_BUNDLE,
    ControlReader,
    ControlView,
    Readiness,
    ReadinessReporter,
)
from recsys.traffic import TrafficPlan
from tests.control_backends import tables_in, write_plan


def test_a_store_that_was_never_written_reads_as_empty_and_stays_unwritten(
    control_url: str,
) -> None:
    """A replica may start first; it must not race the writer."""
    reader = ControlReader(control_url)
    assert reader.view() == ControlView()
    assert reader.readiness() == []
    assert tables_in(control_url) == set()


def test_a_view_is_what_was_written_and_follows_changes(control_url: str) -> None:
    """Also when the reader was there before the store."""
    url = control_url
    reader = ControlReader(url)
    assert reader.view().plan is None
    plan = TrafficPlan.single("b1", 1, "s")
    write_plan(url, plan, ("b1", "b0"))
    view = reader.view()
    assert view == ControlView(plan, ("b1", "b0"), {"stable": "b1"}, 1)
    assert reader.view() is view
    write_plan(url, TrafficPlan.single("b2", 2, "s"), ("b2",), "b2")
    assert reader.view() == ControlView(
        TrafficPlan.single("b2", 2, "s"), ("b2",), {"stable": "b2"}, 2
    )


@pytest.mark.parametrize("document", ["{", "[]", '{"epoch": 1}', "null"])
def test_an_unreadable_plan_is_a_store_error(control_url: str, document: str) -> None:
    """Never a plan of guesses."""
    url = control_url
    write_plan(url, TrafficPlan.single("b1", 1, "s"))
    engine = tables.open_engine(url, writes=True)
    with engine.begin() as connection:
        connection.execute(tables.plans.update().values(document=document))
        connection.execute(tables.head.update().values(revision=9))
    engine.dispose()
    with pytest.raises(StoreError, match="traffic plan"):
        ControlReader(url).view()


def test_a_url_without_a_driver_is_a_settings_error() -> None:
    """Named, with what was expected."""
    with pytest.raises(ConfigError, match="SQLAlchemy URL"):
        ControlReader("not a url")


def test_a_report_replaces_what_the_replica_said_before(control_url: str) -> None:
    """And touches no other replica's rows."""
    url = control_url
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


def test_a_report_does_not_wake_pollers(control_url: str) -> None:
    """Heartbeats are not changes of the plan."""
    url = control_url
    write_plan(url, TrafficPlan.single("b1", 1, "s"))
    reader = ControlReader(url)
    view = reader.view()
    ReadinessReporter(url).report("g1", "gateway", {"b1": ("ready", "")}, 1, 100)
    assert reader.view() is view


def test_an_unknown_state_is_refused(control_url: str) -> None:
    """Nobody would know what it means."""
    with pytest.raises(StoreError, match="'fine', expected one of loading"):
        ReadinessReporter(control_url).report("g1", "gateway", {"b1": ("fine", "")}, 1, 1)


def test_many_processes_may_be_the_first(control_url: str) -> None:
    """Whoever makes the tables, everybody's report arrives."""
    url = control_url
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
