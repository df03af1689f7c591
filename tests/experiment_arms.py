"""Made-up users of an experiment's sides: clicks of slates, with a past that resembles them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.experiment_design import ExperimentDesign
from recsys.experiment_plan import ExperimentArm, ExperimentPlan, Layer
from recsys.stores.evidence.evidence_sums import LatencyHistogram

SHOWN = 10


def a_plan(*arms: str) -> ExperimentDesign:
    """An experiment of these sides with equal shares, judged by the click rate."""
    sides = tuple(ExperimentArm(name, 1 / len(arms), f"b-{name}") for name in arms)
    plan = ExperimentPlan("e-1", Layer.BUNDLE, 0.0, 0.5, sides)
    return ExperimentDesign(plan, "ctr", 0.05, 0.05, 0)


def an_arm(
    rng: np.random.Generator, n: int, *, lift: float = 0.0, ctr: float = 0.1, name: str = "control"
) -> ArmSample:
    """Users whose inclination, lognormal, is that of their past too."""
    own = ctr * rng.lognormal(-0.32, 0.8, n)
    slates = rng.poisson(6, n) + 1.0
    before = rng.poisson(6, n) + 1.0
    past = rng.poisson(own * before * SHOWN).astype(np.float64)
    now = rng.poisson(own * (1 + lift) * slates * SHOWN).astype(np.float64)
    ones = np.ones(n)
    return ArmSample(
        name,
        "",
        {"engaged_items": now, "shown": slates * SHOWN, "slates": slates, "one": ones},
        {"engaged_items": past, "shown": before * SHOWN, "slates": before, "one": ones},
        {},
        LatencyHistogram({}),
    )


def some_arms(rng: np.random.Generator, n: int, lifts: Mapping[str, float]) -> dict[str, ArmSample]:
    """One side per lift, of n users each."""
    return {name: an_arm(rng, n, lift=lift, name=name) for name, lift in lifts.items()}
