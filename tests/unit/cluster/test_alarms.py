"""Alarms of rollouts: when one is raised, and that posting it holds nobody up."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from typing import Any

import httpx
import pytest

from cluster.rollouts.deciding.rollout_plan import PlanStep, RolloutPlan
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.driving import alarms
from cluster.rollouts.driving.alarms import Alarm, AlarmKind, Alarms, alarm_of, raise_alarm
from recsys.settings import ClusterSettings, Settings

URL = "http://127.0.0.1:9/hook"


def a_rollout(**changes: object) -> Rollout:
    """A rollout at a step of at most ten seconds."""
    plan = RolloutPlan("p", (PlanStep(0.1, max_s=10.0),))
    rollout = Rollout(
        "r1", "b2", "b1", "p", (0.1,), (), ("b2",), 0, 1_000, 0, phase=Phase.CANARY, plan=plan
    )
    return replace(rollout, **changes)  # type: ignore[arg-type]


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


def post_to(monkeypatch: pytest.MonkeyPatch, statuses: list[int]) -> list[dict[str, Any]]:
    """Answer posts with these statuses; 0 is a refused connection. Returns what was posted."""
    seen: list[dict[str, Any]] = []

    class Answering:
        """Stands for one streamed answer."""

        def __init__(self, status: int) -> None:
            self.status_code = status

        def __enter__(self) -> Answering:
            return self

        def __exit__(self, *error: object) -> None:
            return None

    def stream(method: str, url: str, *, content: str, **given: object) -> Answering:
        assert (method, url) == ("POST", URL)
        seen.append(json.loads(content))
        status = statuses.pop(0)
        if status == 0:
            raise httpx.ConnectError("refused")
        return Answering(status)

    monkeypatch.setattr(httpx, "stream", stream)
    monkeypatch.setattr(alarms, "RETRY_PAUSE_S", 0.0)
    return seen


@pytest.mark.parametrize(
    ("statuses", "n_posts", "is_lost"),
    [([204], 1, False), ([0, 200], 2, False), ([500, 0], 2, True)],
)
def test_a_webhook_is_tried_twice(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    statuses: list[int],
    n_posts: int,
    is_lost: bool,
) -> None:
    """And what was not posted is logged without the address, which may hold a key."""
    seen = post_to(monkeypatch, list(statuses))
    settings = Settings(cluster=ClusterSettings(alarm_webhook_url=URL))
    thread = raise_alarm(settings, an_alarm())
    assert thread is not None
    thread.join(5)
    assert len(seen) == n_posts
    assert (seen[0]["kind"], seen[0]["rollout_id"], seen[0]["message"]) == ("aborted", "r1", "ctr")
    lost = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert bool(lost) == is_lost
    assert all(URL not in message for message in lost)


def test_without_an_address_nothing_is_posted() -> None:
    """Only the log tells."""
    assert raise_alarm(Settings(), an_alarm()) is None
