"""Rows of worker replicas: each replica writes its own, everybody reads all."""

from __future__ import annotations

from dataclasses import replace

from recsys.stores.control.control import ControlReader, ControlView
from recsys.stores.control.membership import KEEP_GAP_MS, SWEEP_AFTER_MS, Member, Membership
from tests.control_backends import tables_in

NOW_MS = 1_790_000_000_000


def a_member(replica_id: str, worker: str = "features") -> Member:
    """A row with every field set."""
    return Member(worker, replica_id, NOW_MS, (0, 3), 10, 2, 0.5, 1, 0, 0, 4, "")


def test_rows_come_back_as_written_and_replace_the_earlier_ones(control_url: str) -> None:
    """One row per replica, by worker where asked."""
    membership = Membership(control_url)
    membership.beat(a_member("a"))
    membership.beat(replace(a_member("a"), heartbeat_ms=NOW_MS + 1, partitions=()))
    membership.beat(a_member("b"))
    membership.beat(a_member("x", "archiver"))
    found = membership.members("features")
    assert found == [
        replace(a_member("a"), heartbeat_ms=NOW_MS + 1, partitions=()),
        a_member("b"),
    ]
    assert [member.worker for member in membership.members()] == [
        "archiver",
        "features",
        "features",
    ]
    membership.close()


def test_a_store_nobody_wrote_has_no_members_and_stays_unwritten(control_url: str) -> None:
    """Looking makes no file."""
    membership = Membership(control_url)
    assert membership.members() == []
    assert tables_in(control_url) == set()


def test_a_replica_that_leaves_is_gone_unless_it_lost_records(control_url: str) -> None:
    """The row that tells of a gap outlives its replica, as one that does not live."""
    membership = Membership(control_url)
    lossy = replace(a_member("b"), n_missed=7, missed_ms=NOW_MS)
    for member in (a_member("a"), lossy):
        membership.beat(member)
        membership.leave(member)
    assert membership.members() == [replace(lossy, heartbeat_ms=0)]
    membership.close()


def test_joining_sweeps_what_is_gone_and_keeps_gaps_for_a_month(control_url: str) -> None:
    """Rows cannot pile up, and an alarm is not swept away with its replica."""
    membership = Membership(control_url)
    lossy = replace(a_member("lossy"), n_missed=7, missed_ms=NOW_MS)
    for member in (a_member("dead"), lossy):
        membership.beat(member)
    living = replace(a_member("living"), heartbeat_ms=NOW_MS + SWEEP_AFTER_MS)
    membership.beat(living)
    membership.join(NOW_MS + SWEEP_AFTER_MS + 1)
    assert [member.replica_id for member in membership.members()] == ["living", "lossy"]
    membership.join(NOW_MS + KEEP_GAP_MS + 1)
    assert membership.members() == []
    membership.close()


def test_a_store_with_members_alone_is_no_written_control_store(control_url: str) -> None:
    """Workers may start before the first plan is set."""
    membership = Membership(control_url)
    membership.beat(a_member("a"))
    assert ControlReader(control_url).view() == ControlView()
    membership.close()
