"""What simulated rollouts must show, and which of it they missed. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bench.rollout_looks import WorldLooks
from cluster.rollouts.simulation.simulation_report import SEQUENTIAL
from recsys.evidence.simulated_users import SimulatedRollout

PLANNED = "planned"
"""The traffic that holds as many users as a plan of its margin asks for."""
BETA = 0.2
"""Share of worse canaries that may pass, and of equal ones that may not, at the planned users."""
LARGE_LOSS = -0.4


class Seen(Protocol):
    """A world and what was seen of it: a run's settings, and tests' own."""

    @property
    def traffic(self) -> str:
        """Its name."""

    @property
    def world(self) -> SimulatedRollout:
        """Who came, and how much worse the canary was."""

    @property
    def margin(self) -> float:
        """The allowed loss; 0 judges an equal canary without any."""

    @property
    def seen(self) -> WorldLooks:
        """What every rule did."""


def missed(settings: Sequence[Seen], alpha: float) -> list[str]:
    """A sentence for everything that must hold of the sequential rule and does not."""
    return [
        f"{one.traffic}, CTR {one.world.effect:+.0%}: {fault}"
        for one in settings
        for fault in _faults(one, alpha)
    ]


def _faults(one: Seen, alpha: float) -> list[str]:
    rule = one.seen.rules[SEQUENTIAL]
    n = len(rule.users_at_abort)
    aborted, promoted = rule.n_aborted / n, float(rule.is_promoted.mean())
    faults = []
    if one.margin == 0 and aborted > alpha:
        faults.append(f"{aborted:.1%} of equal canaries aborted, expected at most {alpha:.0%}")
    if one.world.effect < -one.margin and promoted > BETA:
        faults.append(f"{promoted:.1%} promoted, expected at most {BETA:.0%}")
    if one.traffic == PLANNED and one.world.effect == 0 and promoted < 1 - BETA:
        faults.append(f"{promoted:.1%} promoted, expected at least {1 - BETA:.0%}")
    if one.world.effect <= LARGE_LOSS and not rule.median_users() < one.world.n_users:
        faults.append(
            f"aborted after {rule.median_users():,.0f} users per arm, expected fewer than the "
            f"{one.world.n_users:,} of the fixed horizon"
        )
    return faults
