"""Which simulated rollouts miss what must hold, each by one figure."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from bench.rollout_bars import LARGE_LOSS, PLANNED, missed
from bench.rollout_looks import RuleLooks, WorldLooks
from cluster.rollouts.simulation.simulation_report import SEQUENTIAL
from recsys.evidence.simulated_users import SimulatedRollout

WORLD = SimulatedRollout(n_users=1_000, n_looks=10)


@dataclass(frozen=True)
class Setting:
    """A world as a run has it."""

    traffic: str
    world: SimulatedRollout
    margin: float
    seen: WorldLooks


def setting(
    traffic: str, effect: float, margin: float, n_aborted: int, n_promoted: int, at: float = 500.0
) -> Setting:
    """100 rollouts, of which so many ended so."""
    users = np.full(100, np.nan)
    users[:n_aborted] = at
    promoted = np.arange(100) >= 100 - n_promoted
    looks = WorldLooks({SEQUENTIAL: RuleLooks(users, promoted)}, 0.01)
    return Setting(traffic, replace(WORLD, effect=effect), margin, looks)


def test_what_must_hold_and_does_is_not_named() -> None:
    """At the very bounds too."""
    held = [
        setting("high traffic", 0.0, 0.0, 5, 0),
        setting("high traffic", -0.05, 0.02, 40, 20),
        setting(PLANNED, 0.0, 0.04, 0, 80),
        setting("low traffic", LARGE_LOSS, 0.02, 100, 0),
    ]
    assert missed(held, 0.05) == []


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (setting("skewed", 0.0, 0.0, 6, 0), "6.0% of equal canaries aborted"),
        (setting(PLANNED, -0.05, 0.04, 0, 21), "21.0% promoted, expected at most 20%"),
        (setting(PLANNED, 0.0, 0.04, 0, 79), "79.0% promoted, expected at least 80%"),
        (setting("high traffic", LARGE_LOSS, 0.02, 100, 0, at=1_000), "1,000 users per arm"),
        (setting("high traffic", LARGE_LOSS, 0.02, 0, 0), "aborted after nan"),
    ],
)
def test_a_missed_bar_is_one_sentence(one: Setting, said: str) -> None:
    """With the figure and the bound."""
    (fault,) = missed([one], 0.05)
    assert said in fault
