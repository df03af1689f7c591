"""What a rollout has to show before it goes on: its steps and the rules they are judged by. Pure.

The plan a rollout started with is kept inside its record, so a file or a release that changes
later changes no rollout under way. How a file becomes a plan is `rollout_plan_file`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from recsys.errors import ConfigError
from recsys.evidence.metric_rules import ABORTING, METRICS, MetricRule, Role

INSTANT = "instant"
FAST = "fast"
STANDARD = "standard"
CAREFUL = "careful"
MAX_SHARE = 0.5
"""Canary and baseline are equal slices."""
OPERATIONAL = ("error_rate", "degraded_share", "shed_share", "coverage", "p50_ms", "p99_ms")
"""Metrics that are right within seconds: no reaction of a user has to be waited for."""
_GUARDRAILS = ("ctr", "utility", "dismiss_rate")
_SLOW = ("conversion", "value_per_user", "session_length_s", "return_rate", "diversity", "novelty")
_HOUR_S = 3_600.0
_DAY_S = 86_400.0


class OnTimeout(StrEnum):
    """What becomes of a step that is undecided when its longest time is over."""

    HOLD = "hold"
    ABORT = "abort"


class OnShadowTimeout(StrEnum):
    """What becomes of a shadow comparison that is undecided when its longest time is over."""

    GO_ON = "go_on"
    """To the first step, as if there had been no shadow."""
    HOLD = "hold"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class PlanStep:
    """One share of users and what must be shown at it."""

    share: float
    """Of users, for the canary and for the baseline each, above 0 and at most 0.5."""
    min_users: int = 0
    """Users per slice since the rollout's first user; evidence adds up over the steps."""
    min_requests: int = 0
    """Requests per slice, likewise."""
    min_s: float = 0.0
    max_s: float | None = None
    """After so long undecided, `on_timeout` decides; None waits for ever."""
    on_timeout: OnTimeout = OnTimeout.HOLD
    metrics: tuple[str, ...] = OPERATIONAL
    """Names of the rules judged at this step."""
    guards: tuple[str, ...] = ()
    """Of the metrics, those that only abort at this step and are not waited for."""


@dataclass(frozen=True, slots=True)
class RolloutPlan:
    """The way from no user to all of them."""

    name: str
    steps: tuple[PlanStep, ...] = ()
    rules: tuple[MetricRule, ...] = ()
    """Every rule that a step names, with this plan's margins."""
    alpha: float = 0.05
    """Chance of aborting a bundle that is as good, over the whole rollout, however often judged."""
    label_window_s: float = 0.0
    """A step that is judged on reactions lasts at least so long: they come after the slate."""
    shadow_requests: int = 0
    """Answers compared on copies of requests before the first user; 0 makes no copies."""
    shadow_share: float = 0.2
    """Of all requests, above 0 up to 1: so many are copied to the canary."""
    shadow_max_s: float = 1_800.0
    """After so long undecided, `on_shadow_timeout` decides."""
    on_shadow_timeout: OnShadowTimeout = OnShadowTimeout.HOLD
    min_overlap: float | None = None
    """Least mean overlap of the canary's slates with live's, 0-1; None sets no floor."""

    @property
    def shares(self) -> tuple[float, ...]:
        """The canary's share at each step."""
        return tuple(step.share for step in self.steps)

    def rules_of(self, step: int) -> tuple[MetricRule, ...]:
        """The rules judged at a step, in the order the step names them."""
        by_name = {rule.name: rule for rule in self.rules}
        guards = self.steps[step].guards
        return tuple(
            replace(rule, role=Role.GUARD)
            if rule.name in guards and rule.role is Role.CRITICAL
            else rule
            for rule in (by_name[name] for name in self.steps[step].metrics)
        )

    @property
    def n_critical(self) -> int:
        """Rules that may abort it, over all steps: alpha is shared among them."""
        return sum(rule.role in ABORTING for rule in self.rules)

    def min_time_s(self, step: int) -> float:
        """How long a step lasts at least; reactions need their window as well."""
        wanted = self.steps[step]
        return max(wanted.min_s, self.label_window_s) if waits_for_labels(wanted) else wanted.min_s


def waits_for_labels(step: PlanStep) -> bool:
    """Whether anything judged at the step comes after the answer."""
    return bool(set(step.metrics) - set(OPERATIONAL))


def check_plan(plan: RolloutPlan, where: str) -> RolloutPlan:
    """The plan, if it can be carried out.

    Raises:
        ConfigError: every value that cannot be used, with its key and what was expected.
    """
    problems = [*_plan_problems(plan), *_step_problems(plan)]
    known = {rule.name for rule in plan.rules}
    for number, step in enumerate(plan.steps):
        problems += [
            f"steps[{number}].metrics names '{name}', expected some of {', '.join(sorted(METRICS))}"
            for name in step.metrics
            if name not in known
        ]
    if problems:
        raise ConfigError(f"{where}: {'; '.join(problems)}; mend it and start again")
    return plan


def resolved_rules(
    steps: Sequence[PlanStep], overrides: Mapping[str, MetricRule]
) -> tuple[MetricRule, ...]:
    """The catalogue's rule of every metric that is judged, unless the plan has its own."""
    names = dict.fromkeys(name for step in steps for name in step.metrics)
    found = {name: overrides.get(name) or METRICS.get(name) for name in names}
    return tuple(rule for rule in found.values() if rule is not None)


def built_in(name: str) -> RolloutPlan:
    """A plan that needs no file.

    Raises:
        ConfigError: there is none of that name.
    """
    steps = _BUILT_IN.get(name)
    if steps is None:
        raise ConfigError(
            f"rollout plan '{name}' does not exist, expected one of {', '.join(_BUILT_IN)} or a "
            "TOML file; use '--plan standard'"
        )
    rules = resolved_rules(steps, _OWN_RULES)
    window_s = _LABEL_WINDOW_S.get(name, 0.0)
    plan = RolloutPlan(name, steps, rules, label_window_s=window_s, **_SHADOW.get(name, {}))
    return check_plan(plan, f"rollout plan {name}")


def _steps(
    metrics: Sequence[tuple[str, ...]], *rows: tuple[float, int, int, float]
) -> tuple[PlanStep, ...]:
    """Rows of share, users, requests and seconds; the last metrics hold for all further rows."""
    steps = []
    for place, row in enumerate(rows):
        judged = metrics[min(place, len(metrics) - 1)]
        # Small slices can show a large loss of clicks, and never exclude a small one.
        is_last = place + 1 == len(rows)
        guards = () if is_last else tuple(name for name in judged if name in _OWN_RULES)
        steps.append(PlanStep(*row[:3], min_s=row[3], metrics=judged, guards=guards))
    return tuple(steps)


_OWN_RULES = {"ctr": replace(METRICS["ctr"], margin=0.05)}
"""2 % takes 140,000 users per arm to exclude, 5 % takes 22,000 (`docs/rollouts.md`)."""
_JUDGED = (*OPERATIONAL, *_GUARDRAILS)
_BUILT_IN: dict[str, tuple[PlanStep, ...]] = {
    INSTANT: (),
    FAST: _steps([OPERATIONAL], (0.05, 20, 200, 30.0), (0.25, 50, 500, 60.0), (0.5, 50, 500, 60.0)),
    STANDARD: _steps(
        [OPERATIONAL, _JUDGED],
        (0.01, 50, 500, 300.0),
        (0.05, 200, 2_000, 600.0),
        (0.1, 400, 4_000, 600.0),
        (0.25, 1_000, 10_000, 900.0),
        (0.5, 2_000, 20_000, 1_800.0),
    ),
    CAREFUL: _steps(
        [OPERATIONAL, _JUDGED, (*_JUDGED, *_SLOW)],
        (0.01, 100, 1_000, 6 * _HOUR_S),
        (0.05, 500, 5_000, _DAY_S),
        (0.1, 1_000, 10_000, _DAY_S),
        (0.25, 2_500, 25_000, 2 * _DAY_S),
        (0.5, 5_000, 50_000, 3 * _DAY_S),
    ),
}
PLAN_NAMES = tuple(_BUILT_IN)
"""The built-in plans, the quickest first."""
_LABEL_WINDOW_S = {STANDARD: 600.0, CAREFUL: _DAY_S}
_SHADOW: dict[str, dict[str, Any]] = {
    FAST: {
        "shadow_requests": 60,
        "shadow_max_s": 30.0,
        "on_shadow_timeout": OnShadowTimeout.GO_ON,
    },
    STANDARD: {"shadow_requests": 500},
    CAREFUL: {"shadow_requests": 500, "shadow_max_s": 6 * _HOUR_S},
}
"""`fast` must end without traffic too. The others wait for users at every step, so they lose
nothing by waiting for answers before the first one, and hold where there are none."""


def _plan_problems(plan: RolloutPlan) -> Iterable[str]:
    if not plan.name:
        yield "name is '', expected a name"
    if not 0.0 < plan.alpha < 0.5:
        yield f"alpha is {plan.alpha}, expected above 0 and below 0.5"
    if not 0.0 <= plan.label_window_s < math.inf:
        yield f"label_window_s is {plan.label_window_s}, expected 0 or more seconds"
    yield from _shadow_problems(plan)
    for rule in plan.rules:
        if not 0.0 <= rule.margin < math.inf:
            yield f"metrics.{rule.name}.margin is {rule.margin}, expected 0 or more"
        if rule.winsorise is not None and not 0.5 < rule.winsorise <= 1.0:
            yield (
                f"metrics.{rule.name}.winsorise is {rule.winsorise}, expected a quantile above "
                "0.5 and at most 1"
            )


def _shadow_problems(plan: RolloutPlan) -> Iterable[str]:
    if plan.shadow_requests < 0:
        yield f"shadow_requests is {plan.shadow_requests}, expected 0 or more"
    if not 0.0 < plan.shadow_share <= 1.0:
        yield f"shadow_share is {plan.shadow_share}, expected above 0 and at most 1"
    if not 0.0 < plan.shadow_max_s < math.inf:
        yield f"shadow_max_s is {plan.shadow_max_s}, expected more than 0 seconds"
    if plan.min_overlap is None:
        return
    if not 0.0 <= plan.min_overlap <= 1.0:
        yield f"min_overlap is {plan.min_overlap}, expected 0 to 1"
    if plan.shadow_requests == 0:
        yield "min_overlap needs answers to compare, expected shadow_requests above 0"


def _step_problems(plan: RolloutPlan) -> Iterable[str]:
    before = 0.0
    for number, step in enumerate(plan.steps):
        at = f"steps[{number}]"
        if not 0.0 < step.share <= MAX_SHARE:
            yield f"{at}.share is {step.share}, expected above 0 and at most {MAX_SHARE}"
        elif step.share <= before:
            yield f"{at}.share is {step.share}, expected more than {before} of the step before"
        before = step.share
        counts = {"min_users": step.min_users, "min_requests": step.min_requests}
        for key, value in counts.items():
            if value < 0:
                yield f"{at}.{key} is {value}, expected 0 or more"
        if not 0.0 <= step.min_s < math.inf:
            yield f"{at}.min_s is {step.min_s}, expected 0 or more seconds"
        least_s = plan.min_time_s(number)
        if step.max_s is not None and not max(least_s, 0.0) < step.max_s < math.inf:
            yield f"{at}.max_s is {step.max_s}, expected more than {least_s}, its shortest time"
        yield from _metric_problems(step, at)


def _metric_problems(step: PlanStep, at: str) -> Iterable[str]:
    if not step.metrics:
        yield f"{at}.metrics is empty, expected at least one metric to judge by"
    if strange := sorted(set(step.guards) - set(step.metrics)):
        yield f"{at}.guards names {', '.join(strange)}, expected some of its metrics"
    if len(set(step.metrics)) != len(step.metrics):
        yield f"{at}.metrics repeats a name, expected each once"
