"""How other rules decide on the same simulated users: raw thresholds and z tests. Pure.

Raw thresholds compare point estimates at every look, as progressive delivery tools do. The z test
has a fixed horizon; applied at every look it shows what peeking costs.
"""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np

from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.simulation.simulated_rollout import Looks, Outcome, SimulatedEnd
from cluster.rollouts.simulation.simulated_slices import SimulatedSlices
from cluster.rollouts.simulation.traffic_shape import Effect, TrafficShape
from recsys.evidence.arm_sample import ONE, ArmSample
from recsys.evidence.metric_rules import ABORTING, Better, MetricRule, Shape
from recsys.traffic import BASELINE, CANARY

RAW, PEEKING, FIXED = "raw thresholds", "z test at every look", "z test at the end"
RIVALS = (FIXED, RAW, PEEKING)


def rival_ends(
    plan: RolloutPlan,
    shape: TrafficShape,
    effect: Effect,
    looks: Looks,
    rng: np.random.Generator,
) -> dict[str, SimulatedEnd]:
    """How each rival ends a rollout that climbs the plan's steps by time and samples alone."""
    slices = SimulatedSlices(shape, effect, rng)
    ends: dict[str, SimulatedEnd] = {}
    now_s, since_s, step = 0.0, 0.0, 0
    while now_s < looks.until_s:
        slices.pass_time(plan.steps[step].share, now_s, looks.every_s)
        now_s += looks.every_s
        samples = slices.samples()
        rules = [rule for rule in plan.rules_of(step) if rule.role in ABORTING]
        pair = samples[BASELINE], samples[CANARY]
        is_enough = _is_enough(plan, step, pair)
        if step or is_enough:
            for name, deciding in (
                (RAW, _first_beyond(rules, pair, 0.0)),
                (PEEKING, _first_beyond(rules, pair, plan.alpha)),
            ):
                if deciding and name not in ends:
                    ends[name] = SimulatedEnd(
                        Outcome.ABORTED, now_s, slices.users_exposed, step + 1, deciding
                    )
        if is_enough and now_s - since_s >= plan.min_time_s(step):
            if step + 1 == len(plan.steps):
                failed = _first_beyond(rules, pair, plan.alpha)
                outcome = Outcome.ABORTED if failed else Outcome.PROMOTED
                end = SimulatedEnd(outcome, now_s, slices.users_exposed, step + 1, failed)
                passed = SimulatedEnd(Outcome.PROMOTED, now_s, slices.users_exposed, step + 1, "")
                return {FIXED: end, RAW: passed, PEEKING: passed} | ends
            step, since_s = step + 1, now_s
    held = SimulatedEnd(Outcome.HELD, now_s, slices.users_exposed, step + 1, "")
    return dict.fromkeys(RIVALS, held) | ends


def _is_enough(plan: RolloutPlan, step: int, pair: tuple[ArmSample, ArmSample]) -> bool:
    wanted = plan.steps[step]
    users = min(sample.n_users for sample in pair)
    requests = min(sample.counts.get("requests", 0.0) for sample in pair)
    return users >= wanted.min_users and requests >= wanted.min_requests


def _first_beyond(rules: list[MetricRule], pair: tuple[ArmSample, ArmSample], alpha: float) -> str:
    """The first metric whose loss is beyond its margin: plainly, or significantly so."""
    errors = 0.0 if alpha <= 0 else NormalDist().inv_cdf(1 - alpha / max(len(rules), 1))
    for rule in rules:
        loss, error = loss_of(rule, *pair)
        if math.isnan(loss) or (alpha and not 0 < error < math.inf):
            continue
        if loss - (errors * error if alpha else 0.0) > rule.margin:
            return rule.name
    return ""


def loss_of(rule: MetricRule, baseline: ArmSample, canary: ArmSample) -> tuple[float, float]:
    """Point estimate of the loss and its standard error, relative (of rates: absolute).

    The delta method over users for ratios, the binomial one for rates; none for quantiles.
    """
    (low, low_error), (high, high_error) = _point(rule, baseline), _point(rule, canary)
    sign = -1.0 if rule.better is Better.HIGHER else 1.0
    if rule.shape is Shape.RATE:
        return sign * (high - low), math.hypot(low_error, high_error)
    if not low > 0:
        return math.nan, math.nan
    effect = high / low - 1
    return sign * effect, math.hypot(high_error, (1 + effect) * low_error) / low


def _point(rule: MetricRule, sample: ArmSample) -> tuple[float, float]:
    if rule.shape is Shape.QUANTILE:
        return sample.latency.quantile_ms(rule.quantile), math.nan
    if rule.shape is Shape.RATE:
        n = sample.counts.get(rule.denominator, 0.0)
        share = sample.counts.get(rule.numerator, 0.0) / n if n else math.nan
        return share, math.sqrt(share * (1 - share) / n) if n else math.nan
    top = sample.users.get(rule.numerator)
    bottom = sample.users.get(rule.denominator or ONE)
    if top is None or bottom is None or sample.n_users < 2 or bottom.sum() <= 0:
        return math.nan, math.nan
    ratio = float(top.sum() / bottom.sum())
    spread = float(np.var(top - ratio * bottom, ddof=1))
    return ratio, math.sqrt(spread / len(top)) / float(bottom.mean())
