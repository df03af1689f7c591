"""Alarms of rollouts: when one is raised. Posting is `tests/integration/test_alarm_webhook.py`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

import pytest

from cluster.rollouts.deciding.rollout_plan import OnTimeout, PlanStep, RolloutPlan
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout, Shadowing
from cluster.rollouts.driving.alarms import Alarm, AlarmKind, Alarms, alarm_of, raise_alarm
from recsys.settings import Settings


def a_rollout(**changes: object) -> Rollout:
    """A rollout at a step of at most ten seconds."""
    plan = RolloutPlan("p", (PlanStep(0.1, max_s=10.0),))
    rollout = Rollout(
        "r1", "b2", "b1", "p", (0.1,), (), ("b2",), 0, 1_000, 0, phase=Phase.CANARY, plan=plan
    )
    return replace(rollout, **changes)  # type: ignore[arg-type]


def test_a_comparison_beyond_its_longest_time_is_told_of_before_any_step() -> None:
    """A later one of the first step is another alarm."""
    plan = RolloutPlan("p", (PlanStep(0.1, max_s=10.0),), shadow_requests=5, shadow_max_s=30.0)
    waiting = a_rollout(phase=Phase.PREPARING, shadow=Shadowing.RUNNING, plan=plan)
    assert alarm_of(waiting, 30_000) is None
    found = alarm_of(waiting, 30_001)
    assert found is not None
    assert (found.kind, found.step) == (AlarmKind.OVERDUE, 0)


def an_alarm() -> Alarm:
    """Of an abort."""
    found = alarm_of(a_rollout(phase=Phase.ABORTED, reason=Reason.EVIDENCE, message="ctr"), 5)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("changes", "now_ms", "kind"),
    [
        ({}, 9_000, None),
        ({}, 10_001, AlarmKind.OVERDUE),
        ({"phase": Phase.PAUSED}, 10_001, None),
        ({"phase": Phase.ABORTED, "reason": Reason.EVIDENCE}, 0, AlarmKind.ABORTED),
        ({"phase": Phase.ABORTED, "reason": Reason.OPERATOR}, 0, None),
        ({"phase": Phase.PROMOTING, "reason": Reason.HALTED}, 0, AlarmKind.HALTED),
        ({"phase": Phase.PROMOTED}, 99_000, None),
    ],
)
def test_what_people_are_told_of(
    changes: dict[str, Any], now_ms: int, kind: AlarmKind | None
) -> None:
    """What ended badly or waits for them; not what they did themselves."""
    found = alarm_of(a_rollout(**changes), now_ms)
    assert (None if found is None else found.kind) == kind


def test_each_alarm_is_raised_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often the controller looks."""
    told = Alarms(Settings(), lambda: 20_000)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            told.look(a_rollout())
        told.look(a_rollout(phase=Phase.ABORTED, reason=Reason.EVIDENCE))
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]
    assert "waits for a decision" in caplog.records[0].message


def test_without_an_address_nothing_is_posted() -> None:
    """Only the log tells."""
    assert raise_alarm(Settings(), an_alarm()) is None


def test_what_ends_by_itself_waits_for_nobody() -> None:
    """A step that its plan aborts when its time is over raises no alarm before that."""
    waiting = a_rollout()
    assert waiting.plan is not None
    steps = tuple(replace(step, on_timeout=OnTimeout.ABORT) for step in waiting.plan.steps)
    ending = replace(waiting, plan=replace(waiting.plan, steps=steps))
    assert alarm_of(ending, 20_000) is None
    assert alarm_of(waiting, 20_000) is not None
