"""Which arm answers a user: experiments of bundles before the rollout, orderings beside both."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Any

import pytest

from recsys.experiment_plan import ExperimentArm, ExperimentPlan, Experiments, Layer
from recsys.ordering_overrides import NO_OVERRIDES, pack_overrides
from recsys.traffic import Arm, TrafficPlan
from serve_app.assignment import AssignedArm, Assigner, stable_instead
from serve_app.telemetry import Telemetry

USERS = [f"u{n}" for n in range(400)]
ROLLOUT = TrafficPlan(
    3, "roll", (Arm("canary", "b2", 0.3), Arm("stable", "b1", 0.4), Arm("baseline", "b1", 0.3))
)


def of_bundles(share: float = 0.5) -> ExperimentPlan:
    """An experiment of two bundles."""
    arms = (ExperimentArm("control", 0.5, "b1"), ExperimentArm("treatment", 0.5, "b9"))
    return ExperimentPlan("scorer-1", Layer.BUNDLE, 0.0, share, arms)


def of_ordering(share: float = 0.5, **ordering: Any) -> ExperimentPlan:
    """An experiment of an ordering."""
    arms = (ExperimentArm("control", 0.5), ExperimentArm("treatment", 0.5, ordering=ordering))
    return ExperimentPlan("order-1", Layer.ORDERING, 0.0, share, arms)


def assigned(
    *plans: ExperimentPlan, holdout: float = 0.0, telemetry: Telemetry | None = None
) -> dict[str, AssignedArm]:
    """The arm of every user."""
    assigner, experiments = Assigner(telemetry or Telemetry()), Experiments(plans, holdout)
    return {user: assigner.assign(ROLLOUT, experiments, user) for user in USERS}


def test_without_an_experiment_the_plan_decides() -> None:
    """As it did before there were any."""
    for user, arm in assigned().items():
        planned = ROLLOUT.assign(user)
        experiment = None if planned.variant == "stable" else "roll"
        assert arm == AssignedArm(planned.variant, planned.bundle_id, experiment)
        assert arm.experiments == ()


def test_users_of_an_experiment_of_bundles_are_in_no_slice_of_the_rollout() -> None:
    """Their side's bundle answers under its name; everybody else is where he was."""
    found, before = assigned(of_bundles()), assigned()
    sides = Counter(arm.bundle_side for arm in found.values())
    assert set(sides) == {"", "scorer-1:control", "scorer-1:treatment"}
    for user, arm in found.items():
        if not arm.bundle_side:
            assert arm == before[user]
            continue
        name = arm.bundle_side.removeprefix("scorer-1:")
        bundle_id = {"control": "b1", "treatment": "b9"}[name]
        assert arm == AssignedArm(name, bundle_id, "scorer-1", f"scorer-1:{name}")
        assert arm.experiments == (f"scorer-1:{name}",)


def test_an_ordering_is_changed_under_whatever_bundle_answers() -> None:
    """Rollout and experiments of bundles go on; control is ordered as it was, in the same batch."""
    found = assigned(of_bundles(), of_ordering(diversity=0.7))
    without = assigned(of_bundles())
    packed = {"": NO_OVERRIDES, "order-1:control": NO_OVERRIDES}
    packed["order-1:treatment"] = pack_overrides({"diversity": 0.7})
    for user, arm in found.items():
        assert arm.overrides == packed[arm.ordering_side]
        assert (arm.variant, arm.bundle_id, arm.experiment, arm.bundle_side) == (
            without[user].variant,
            without[user].bundle_id,
            without[user].experiment,
            without[user].bundle_side,
        )
    both = [arm for arm in found.values() if arm.bundle_side and arm.ordering_side]
    assert both
    assert all(arm.experiments == (arm.bundle_side, arm.ordering_side) for arm in both)
    assert {arm.variant for arm in found.values() if arm.overrides} >= {"canary", "treatment"}


def test_the_holdout_is_answered_by_the_plan() -> None:
    """In both layers."""
    found = assigned(of_bundles(1.0), of_ordering(1.0, diversity=0.7), holdout=0.4)
    held = [user for user, arm in found.items() if not arm.experiments]
    assert 0.3 * len(USERS) < len(held) < 0.5 * len(USERS)
    assert all(found[user] == assigned()[user] for user in held)
    assert all(len(arm.experiments) in (0, 2) for arm in found.values())


def test_an_ordering_that_cannot_be_read_is_ignored_counted_and_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """For both its sides: control would otherwise be compared with nobody."""
    telemetry = Telemetry()
    bad = of_ordering(1.0, novelty=0.7)
    with caplog.at_level(logging.WARNING, "ray.serve"):
        found = assigned(of_bundles(), bad, telemetry=telemetry)
    assert found == assigned(of_bundles())
    counts = telemetry.take().counts
    tags = (("experiment", "order-1"),)
    assert counts["flywheel_ignored_experiments", tags] == len(USERS)
    assert len([record for record in caplog.records if "order-1" in record.getMessage()]) == 1


def test_the_experiments_of_the_next_poll_are_followed() -> None:
    """One ends, one begins, one changes what it puts over the ordering."""
    assigner = Assigner(Telemetry())
    seen = [
        assigner.assign(ROLLOUT, Experiments(plans), "u1")
        for plans in (
            (of_ordering(1.0, pool=9),),
            (of_bundles(1.0),),
            (),
            (of_ordering(1.0, pool=8), of_bundles(1.0)),
        )
    ]
    assert [len(arm.experiments) for arm in seen] == [1, 1, 0, 2]


def test_stable_in_the_place_of_a_side_is_credited_to_its_ordering_alone() -> None:
    """The side of the bundles was not shown; the ordering was."""
    arm = AssignedArm("treatment", "b9", "scorer-1", "scorer-1:treatment", "order-1:t", b"{}")
    assert stable_instead(ROLLOUT, arm) == AssignedArm("stable", "b1", None, "", "order-1:t", b"{}")
