"""What `cluster status` says of scheduled trainings, and when that is a problem."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.settings import Settings

MAX_FAILURES = 3
"""So many failed trainings, one after the other, are a problem."""


def schedule_facts(settings: Settings) -> dict[str, Any]:
    """The schedule's memory; empty where trainings are not scheduled.

    Raises:
        StoreError: the control store cannot be read.
    """
    if settings.schedule.train == "off":
        return {}
    from recsys.stores.control.training_schedule import TrainingSchedule

    with closing(TrainingSchedule(settings.control_url)) as store:
        state = store.read()
    facts: dict[str, Any] = {"train": settings.schedule.train}
    return facts if state is None else facts | asdict(state) | {"is_training": state.is_training}


def schedule_problems(facts: Mapping[str, Any]) -> list[str]:
    """Whether scheduled trainings come to an end."""
    n_failures = facts.get("n_failures", 0)
    if n_failures < MAX_FAILURES:
        return []
    return [
        f"the last {n_failures} scheduled trainings did not come to an end ({facts['result']}: "
        f"{facts['detail']}); run 'cluster train' to see why"
    ]


def schedule_line(facts: Mapping[str, Any], now_ms: int) -> str:
    """One line: cadence, the last training and what is waited for."""
    parts = [f"training: {facts['train']}"]
    if facts.get("is_training"):
        parts.append(f"one began {_ago(now_ms - facts['started_ms'])}")
    elif facts.get("result"):
        when = _ago(now_ms - facts["ended_ms"])
        parts.append(f"the last was {facts['result']} {when} ({facts['detail']})")
    if facts.get("waits_for"):
        parts.append(f"waits for {facts['waits_for']}")
    if facts.get("next_ms"):
        parts.append(f"next in {_time(facts['next_ms'] - now_ms)}")
    return ", ".join(parts)


def _ago(elapsed_ms: int) -> str:
    return f"{_time(elapsed_ms)} ago"


def _time(span_ms: int) -> str:
    minutes = max(span_ms, 0) / 60_000
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
