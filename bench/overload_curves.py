"""Goodput and latency against the load that is offered, as points and as two pictures. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeAlias

import numpy as np

from bench.open_loop import Phase, Seen
from bench.svg_curves import svg_curves

LADDER = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)
"""Offered loads, as multiples of the capacity."""
STEP_S = 6.0
_SETTLING_S = 1.0
"""Of a step, left out: requests of the step before are still being answered."""

Curve: TypeAlias = list[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class LoadStep:
    """What was seen at one offered load."""

    offered_per_s: float
    goodput_per_s: float
    """Answers in that time, whenever they were asked for."""
    p50_ms: float
    p99_ms: float
    """Of what was answered."""
    refusal_p99_ms: float


def ladder_phases(capacity_per_s: float) -> list[Phase]:
    """Each step of the ladder in turn."""
    return [Phase(times * capacity_per_s, STEP_S) for times in LADDER]


def steps_of(seen: Seen, began_s: float, phases: Sequence[Phase]) -> list[LoadStep]:
    """What was seen in each of the phases, the first of which began at `began_s`."""
    came_s = seen.due_s + seen.latency_ms / 1000
    found = []
    for phase in phases:
        ended_s = began_s + phase.seconds
        from_s = began_s + _SETTLING_S
        asked = seen.during(from_s, ended_s)
        is_good = (seen.status == HTTPStatus.OK) & (came_s >= from_s) & (came_s < ended_s)
        answered = asked.latencies_of(HTTPStatus.OK)
        refused = asked.latencies_of(HTTPStatus.SERVICE_UNAVAILABLE)
        p50_ms, p99_ms = np.quantile(answered, (0.5, 0.99)) if len(answered) else (0.0, 0.0)
        found.append(
            LoadStep(
                offered_per_s=len(asked.status) / (ended_s - from_s),
                goodput_per_s=float(is_good.sum()) / (ended_s - from_s),
                p50_ms=float(p50_ms),
                p99_ms=float(p99_ms),
                refusal_p99_ms=float(np.quantile(refused, 0.99)) if len(refused) else 0.0,
            )
        )
        began_s = ended_s
    return found


def goodput_picture(steps: Sequence[LoadStep], capacity_per_s: float) -> str:
    """Answers a second against requests a second, with the capacity dashed."""
    goodput = [(step.offered_per_s, step.goodput_per_s) for step in steps]
    return svg_curves(
        "Goodput against offered load",
        {"answered in time": [(0.0, 0.0), *goodput]},
        "requests a second, offered",
        "answers a second",
        level=capacity_per_s,
    )


def latency_picture(steps: Sequence[LoadStep]) -> str:
    """Latency of answers and of refusals against requests a second."""
    curves: dict[str, Curve] = {
        "p50 of answers": [(step.offered_per_s, step.p50_ms) for step in steps],
        "p99 of answers": [(step.offered_per_s, step.p99_ms) for step in steps],
        "p99 of refusals": [(s.offered_per_s, s.refusal_p99_ms) for s in steps if s.refusal_p99_ms],
    }
    shown = {name: curve for name, curve in curves.items() if curve}
    return svg_curves("Latency against offered load", shown, "requests a second, offered", "ms")
