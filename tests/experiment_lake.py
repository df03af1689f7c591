"""A lake of an experiment: slates of both sides before and during it, and what users did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.evidence.experiment_design import ExperimentDesign
from recsys.experiment_plan import ExperimentArm, ExperimentPlan, Layer
from recsys.settings import Settings
from tests.example_lake import DAY, HOUR, NOON, a_lake, an_engagement, an_impression

FROM_MS = NOON
EXPERIMENT = "scorer-2-20260101-120000"
N_SHOWN = 4
KINDS = ["click", "view", "dismiss", "purchase"]


def a_design(
    arms: Sequence[str] = ("control", "treatment"), until_ms: int | None = None, **fields: Any
) -> ExperimentDesign:
    """An experiment of the bundle layer with equal sides, begun at `FROM_MS`."""
    plan = ExperimentPlan(
        EXPERIMENT,
        Layer.BUNDLE,
        0.0,
        0.5,
        tuple(ExperimentArm(name, 1 / len(arms), f"b-{name}") for name in arms),
    )
    declared = {"metric": "ctr", "margin": 0.02, "alpha": 0.05, "label_window_ms": 6 * HOUR}
    return ExperimentDesign(plan, **(declared | fields), from_ms=FROM_MS, until_ms=until_ms)


def arm_fields(arm: str) -> dict[str, Any]:
    """The columns by which an impression names its side."""
    return {
        "variant": arm,
        "experiment": EXPERIMENT,
        "experiments": [f"{EXPERIMENT}:{arm}"],
        "bundle_id": f"b-{arm}",
    }


def visits(
    user: str,
    arm: str,
    click_rate: float,
    rng: np.random.Generator,
    *,
    n_before: int = 2,
    n_during: int = 3,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """One user's impressions and engagements; every second engagement names no request."""
    impressions, engagements = [], []
    times = [FROM_MS - (n + 1) * DAY - int(rng.integers(HOUR)) for n in range(n_before)]
    times += [FROM_MS + n * DAY + int(rng.integers(HOUR)) for n in range(n_during)]
    for at_ms in times:
        items = [f"i{n}" for n in rng.choice(60, N_SHOWN, replace=False)]
        fields = arm_fields(arm) if at_ms >= FROM_MS else {}
        fields |= {"context": [("device", str(rng.choice(["tv", "phone"])))]}
        impressions.append(an_impression(user, items, at_ms, **fields))
        for item in items:
            if rng.random() < click_rate:
                act_ms = at_ms + int(rng.integers(1, 3 * HOUR))
                kind = str(
                    rng.choice(["click", "view", "dismiss", "purchase"], p=[0.6, 0.1, 0.1, 0.2])
                )
                named = {"request_id": f"r-{user}-{at_ms}"} if rng.random() < 0.5 else {}
                engagements.append(
                    an_engagement(user, item, act_ms, kind, value=float(rng.integers(9)), **named)
                )
    return impressions, engagements


def an_experiment_lake(
    folder: Path, rows: Sequence[tuple[list[dict[str, Any]], list[dict[str, Any]]]]
) -> Settings:
    """The lake of all users' rows."""
    return a_lake(
        folder,
        impressions=[one for impressions, _ in rows for one in impressions],
        engagements=[one for _, engagements in rows for one in engagements],
    )
