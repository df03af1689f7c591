"""The control store as a file: absent, empty, damaged, moved away and replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import StoreError
from recsys.stores.control.control import ControlReader, ControlView, ReadinessReporter
from recsys.stores.control.membership import Member, Membership
from recsys.stores.control.training_schedule import ScheduleState, TrainingSchedule
from recsys.traffic import TrafficPlan
from tests.control_backends import write_plan


@pytest.fixture
def control_url(tmp_path: Path) -> str:
    """A control store that does not exist yet."""
    return f"sqlite:///{tmp_path / 'control.sqlite'}"


def test_a_store_without_tables_reads_as_empty(control_url: str, tmp_path: Path) -> None:
    """A file the writer has opened and not filled yet."""
    (tmp_path / "control.sqlite").touch()
    reader = ControlReader(control_url)
    assert reader.view() == ControlView()
    assert reader.readiness() == []


def test_a_store_that_is_no_database_is_a_store_error(control_url: str, tmp_path: Path) -> None:
    """With the store's name; a caller keeps its last view."""
    (tmp_path / "control.sqlite").write_bytes(b"this is no database" * 100)
    for call in (
        ControlReader(control_url).view,
        ControlReader(control_url).readiness,
        lambda: ReadinessReporter(control_url).forget("r1"),
    ):
        with pytest.raises(StoreError, match=r"control\.sqlite"):
            call()


def test_a_reader_recovers_when_the_store_comes_back(control_url: str, tmp_path: Path) -> None:
    """One failed poll is only one failed poll."""
    url = control_url
    plan = TrafficPlan.single("b1", 1, "s")
    write_plan(url, plan)
    reader = ControlReader(url)
    assert reader.view().plan == plan
    (tmp_path / "control.sqlite").rename(tmp_path / "away")
    (tmp_path / "control.sqlite").mkdir()
    with pytest.raises(StoreError):
        reader.view()
    (tmp_path / "control.sqlite").rmdir()
    (tmp_path / "away").rename(tmp_path / "control.sqlite")
    assert reader.view().plan == plan


def test_a_store_that_was_replaced_is_read_anew(control_url: str, tmp_path: Path) -> None:
    """An open connection does not hold on to a deleted file."""
    url = control_url
    write_plan(url, TrafficPlan.single("b1", 1, "s"))
    reader, reporter = ControlReader(url), ReadinessReporter(url)
    reader.view()
    reporter.report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    for path in tmp_path.iterdir():
        path.unlink()
    plan = TrafficPlan.single("b2", 2, "s")
    write_plan(url, plan)
    write_plan(url, plan)
    assert reader.view().plan == plan
    reporter.report("g2", "gateway", {"b1": ("ready", "")}, 1, 1)
    assert [row.replica_id for row in reader.readiness()] == ["g2"]


def test_a_store_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    """A data directory that is a file."""
    (tmp_path / "var").write_text("")
    writer = ControlWriter(f"sqlite:///{tmp_path / 'var' / 'control.sqlite'}")
    with pytest.raises(StoreError, match="control store"):
        writer.set_alias("stable", "b1", None)


def test_a_schedule_that_is_away_is_said(control_url: str, tmp_path: Path) -> None:
    """With the store's place."""
    (tmp_path / "control.sqlite").mkdir()
    store = TrainingSchedule(control_url)
    with pytest.raises(StoreError, match="control store"):
        store.write(ScheduleState())
    store.close()


def test_an_unusable_store_of_members_says_what_to_check(control_url: str, tmp_path: Path) -> None:
    """Neither write nor read raises anything else."""
    (tmp_path / "control.sqlite").write_bytes(b"this is no database" * 100)
    membership = Membership(control_url)
    with pytest.raises(StoreError, match=r"cannot be used.*check that it runs"):
        membership.beat(Member("features", "a", 1))
    with pytest.raises(StoreError, match="cannot be used"):
        membership.members()
