"""How many users an experiment needs and how long they take to come, from the evidence so far."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.evidence.arm_sample import KIND_MEANINGS, KindMeanings, arm_samples
from recsys.evidence.metric_rules import MetricRule
from recsys.evidence.planned_size import POWER, unit_variance, users_needed
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.traffic import STABLE

DAY_MS = 86_400_000
_LOOK_BACK_DAYS = 7


@dataclass(frozen=True, slots=True)
class PlannedSize:
    """What is needed; None where it cannot be told."""

    users_per_arm: int | None
    days: float | None
    why: str
    """One sentence for the operator."""


def planned_size(
    reader: EvidenceReader,
    stable_id: str,
    rule: MetricRule,
    *,
    alpha: float,
    n_arms: int,
    share: float,
    lift: float,
    now_ms: int,
    kinds: KindMeanings = KIND_MEANINGS,
) -> PlannedSize:
    """Users per arm for the declared margin with power 0.8, and days at the present traffic.

    Args:
        rule: the primary metric with its margin.
        alpha: of the whole experiment; it is split over the treatments.
        share: of all users that take part.
        lift: the relative gain that is supposed to be true.

    Raises:
        StoreError: the evidence cannot be read.
    """
    since_ms = now_ms - _LOOK_BACK_DAYS * DAY_MS
    users = reader.per_user([stable_id], since_ms, now_ms)
    arms = [
        one for one in reader.by_variant([stable_id], since_ms, now_ms) if one.variant == STABLE
    ]
    sample = arm_samples(users, None, arms, "", kinds).get(STABLE)
    spread = None if sample is None else unit_variance(rule, sample.users)
    if sample is None or spread is None:
        return PlannedSize(None, None, f"no planned n: too little {rule.name} of {stable_id} yet")
    needed = users_needed(rule, spread, alpha / (n_arms - 1), lift)
    if needed is None:
        return PlannedSize(
            None, None, f"no planned n: a gain of {lift:.1%} is never told from the margin of "
            f"{rule.margin:.1%}; name a larger --lift",
        )  # fmt: skip
    today = len(reader.per_user([stable_id], now_ms, now_ms + 1))
    per_day = max(sample.n_users / _LOOK_BACK_DAYS, today if today == sample.n_users else 0)
    days = needed * n_arms / (share * per_day)
    goal = f"margin {rule.margin:.1%}" + (f" at a gain of {lift:.1%}" if lift else "")
    return PlannedSize(
        needed,
        days,
        f"planned n: {needed:,} users per arm for {goal} with power {POWER:g}, about "
        f"{days:,.1f} days at {per_day:,.0f} new users a day",
    )
