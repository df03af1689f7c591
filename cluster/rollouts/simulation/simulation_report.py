"""Many simulated rollouts of one setting, added up: how often, how soon, at whose cost. Pure."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.simulation.rival_rules import RIVALS, rival_ends
from cluster.rollouts.simulation.simulated_rollout import (
    Looks,
    Outcome,
    SimulatedEnd,
    simulate_rollout,
)
from cluster.rollouts.simulation.traffic_shape import Effect, TrafficShape

SEQUENTIAL = "sequential"
"""The controller's own judgement."""
_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Share:
    """A share of rollouts with its 95 % interval (Wilson 1927)."""

    n: int
    of: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """The share; NaN of none."""
        return self.n / self.of if self.of else math.nan


@dataclass(frozen=True, slots=True)
class RuleReport:
    """What one rule made of all rollouts of a setting."""

    rule: str
    effect: str
    aborted: Share
    promoted: Share
    held: Share
    detect_s_median: float | None
    """Of those aborted, since the canary's first user."""
    detect_s_p90: float | None
    exposed_median: float
    """Users the canary answered until the end, of all rollouts."""
    exposed_p90: float
    deciding: dict[str, int]
    """What decided the aborts."""
    aborts_s: tuple[float, ...]
    """When each abort came, in order."""

    def to_json(self) -> dict[str, Any]:
        """The report as a JSON object."""
        document = asdict(self)
        for name in ("aborted", "promoted", "held"):
            document[name]["value"] = getattr(self, name).value
        return document


def simulate_setting(
    plan: RolloutPlan,
    shape: TrafficShape,
    effect: Effect,
    n_rollouts: int,
    looks: Looks,
    seed: int,
    show: Callable[[int], None] = lambda done: None,
) -> tuple[RuleReport, ...]:
    """The controller's rule and its rivals, each on the same users.

    Args:
        show: told how many rollouts are done.
    """
    ends: dict[str, list[SimulatedEnd]] = {name: [] for name in (SEQUENTIAL, *RIVALS)}
    for number in range(n_rollouts):
        streams = [np.random.default_rng([seed, number]) for _ in range(2)]
        ends[SEQUENTIAL].append(simulate_rollout(plan, shape, effect, looks, streams[0]))
        for name, end in rival_ends(plan, shape, effect, looks, streams[1]).items():
            ends[name].append(end)
        show(number + 1)
    return tuple(report_of(name, effect, found) for name, found in ends.items())


def report_of(rule: str, effect: Effect, ends: Sequence[SimulatedEnd]) -> RuleReport:
    """One rule's ends, added up."""
    counts = Counter(end.outcome for end in ends)
    shares = {outcome: wilson(counts[outcome], len(ends)) for outcome in Outcome}
    aborts = [end for end in ends if end.outcome is Outcome.ABORTED]
    times = sorted(end.at_s for end in aborts)
    exposed = [end.users_exposed for end in ends] or [0]
    return RuleReport(
        rule,
        effect.text,
        shares[Outcome.ABORTED],
        shares[Outcome.PROMOTED],
        shares[Outcome.HELD],
        float(np.median(times)) if times else None,
        float(np.quantile(times, 0.9)) if times else None,
        float(np.median(exposed)),
        float(np.quantile(exposed, 0.9)),
        dict(Counter(end.deciding for end in aborts)),
        tuple(times),
    )


def wilson(n: int, of: int) -> Share:
    """A share with its interval; without any rollout nothing is known."""
    if of == 0:
        return Share(0, 0, 0.0, 1.0)
    share, widened = n / of, 1 + _Z * _Z / of
    middle = (share + _Z * _Z / (2 * of)) / widened
    half = _Z * math.sqrt(share * (1 - share) / of + _Z * _Z / (4 * of * of)) / widened
    low = 0.0 if n == 0 else middle - half
    high = 1.0 if n == of else middle + half
    return Share(n, of, max(low, 0.0), min(high, 1.0))
