"""What is built on the control store, on each kind of it: leases, known gaps, whole rollouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.bundles.part_leases import PartLeases
from cluster.rollouts.deciding.rollout_record import Phase
from cluster.rollouts.deciding.rollout_turn import replay
from cluster.rollouts.driving import controller as controller_module
from cluster.rollouts.driving.controller_lease import LEASE_MS, ControllerLease
from recsys.errors import StoreError
from recsys.evidence.comparison import Verdict
from recsys.stores.control.acknowledged_gaps import AcknowledgedGap, AcknowledgedGaps
from tests.rollouts_for_tests import FAILING, PASSING, SHADOWED, a_fleet, judged


@pytest.mark.parametrize(
    ("verdicts", "phase", "stable"),
    [(PASSING, Phase.PROMOTED, "b2"), (FAILING, Phase.ABORTED, "b1")],
)
def test_a_rollout_ends_by_its_evidence(
    control_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    verdicts: tuple[Verdict, ...],
    phase: Phase,
    stable: str,
) -> None:
    """Copies are compared, shares grow, every move is recorded and decides the same again."""
    monkeypatch.setattr(controller_module, "judge_step", judged)
    fleet = a_fleet(tmp_path, *verdicts, control_store_url=control_url)
    fleet.start(SHADOWED)
    rollout = fleet.run(fleet.controller())
    assert (rollout.phase, rollout.is_closed) == (phase, True)
    assert fleet.reader.view().aliases == {"stable": stable}
    assert replay(fleet.writer.turns("r1")) == ()
    assert fleet.epochs == sorted(fleet.epochs)


def test_a_lease_is_one_owners_at_a_time(control_url: str) -> None:
    """Until it runs out, or is given back."""
    one, two = ControllerLease(control_url), ControllerLease(control_url)
    assert not one.is_held(0)
    assert one.take("one", 0)
    assert not two.take("two", LEASE_MS - 1)
    assert two.take("two", LEASE_MS)
    one.give_back("one")
    assert not one.take("one", LEASE_MS)
    two.give_back("two")
    assert one.take("one", LEASE_MS)


def test_known_gaps_are_kept_all_or_none(control_url: str) -> None:
    """A second word on one of them keeps the others out too."""
    gaps = AcknowledgedGaps(control_url)
    first = AcknowledgedGap(1, 5, 9, 100, "ann", "the disk of broker 2")
    second = AcknowledgedGap(0, 2, 3, 200, "bob", "")
    assert gaps.read() == []
    gaps.add([first])
    with pytest.raises(StoreError):
        gaps.add([second, first])
    assert gaps.read() == [first]
    gaps.add([second])
    assert gaps.read() == [second, first]
    gaps.close()


def test_parts_of_a_composition_are_kept_while_it_is_made(control_url: str) -> None:
    """Several hold the same bundle; each lets go of its own alone."""
    leases = PartLeases(control_url)
    assert leases.read(0) == {}
    with leases.held(("b1", "b2"), "one", lambda: 0):
        with leases.held(("b1",), "two", lambda: 0):
            assert set(leases.read(1)) == {"b1", "b2"}
        assert leases.read(1) == {"b1": "one", "b2": "one"}
    assert leases.read(1) == {}
    leases.close()
