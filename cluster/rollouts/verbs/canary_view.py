"""What `cluster canary status` shows of a rollout: pure, over its record and the time.

Knows no store; the numbers are the latest judgement's, as the record keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from cluster.rollouts.deciding.rollout_plan import OnTimeout
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.verbs.metric_text import (
    duration_text,
    effect_text,
    interval_text,
    margin_text,
    value_text,
)
from cluster.rollouts.verbs.shadow_view import (
    VERDICT_STYLE,
    next_of_preparing,
    plain_table,
    shadow_document,
    shadow_table,
    shadow_text,
    shadow_time_left,
)
from recsys.traffic import BASELINE, CANARY

if TYPE_CHECKING:
    from rich.console import Group, RenderableType

_COLUMNS = ("metric", "role", "baseline", "canary", "effect", "interval", "allowed", "verdict")


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """How long a rollout still takes, if nothing fails."""

    min_s: float
    max_s: float | None
    """None where a step may wait for ever."""


@dataclass(frozen=True, slots=True)
class StepView:
    """One step as it is shown."""

    number: int
    share: float
    """Of users, for the canary and for the baseline each."""
    state: str
    """done, present, to come, or left: where the rollout ended before."""
    min_s: float
    max_s: float | None
    min_users: int
    min_requests: int


def time_left(rollout: Rollout, now_ms: int) -> TimeLeft | None:
    """The shortest and the longest time to a promotion; None where the record has no plan."""
    plan = rollout.plan
    if plan is None or not plan.steps or rollout.is_finished:
        return None
    waited_s = 0.0
    if rollout.phase in {Phase.CANARY, Phase.PAUSED}:
        waited_s = max(now_ms - rollout.since_ms, 0) / 1000
    shadow_s = shadow_time_left(rollout, now_ms)
    least_s, most_s = 0.0, shadow_s or 0.0
    is_bounded = shadow_s is not None
    for number in range(rollout.step, len(plan.steps)):
        spent_s = waited_s if number == rollout.step else 0.0
        least_s += max(plan.min_time_s(number) - spent_s, 0.0)
        step_max_s = plan.steps[number].max_s
        is_bounded = is_bounded and step_max_s is not None
        most_s += max((step_max_s or 0.0) - spent_s, 0.0)
    return TimeLeft(least_s, most_s if is_bounded else None)


def step_views(rollout: Rollout) -> tuple[StepView, ...]:
    """The steps with where the rollout stands among them."""
    plan = rollout.plan
    if plan is None:
        return ()
    return tuple(
        StepView(
            number + 1,
            step.share,
            _state(rollout, number),
            plan.min_time_s(number),
            step.max_s,
            step.min_users,
            step.min_requests,
        )
        for number, step in enumerate(plan.steps)
    )


def next_move(rollout: Rollout, now_ms: int) -> str:
    """What comes next, and what it waits for."""
    if rollout.reason is Reason.HALTED:
        return (
            f"back to {rollout.stable_id} once it is healthy; 'cluster canary retry' or 'abort' "
            "asks again"
        )
    match rollout.phase:
        case Phase.PROMOTED:
            return "nothing; 'cluster canary undo' leads back"
        case Phase.ABORTED:
            return f"nothing; {rollout.stable_id} answers everybody"
        case Phase.PAUSED:
            return "nothing until 'cluster canary resume', 'step', 'promote --full' or 'abort'"
        case Phase.PROMOTING:
            return "every gateway gives the new bundle all traffic"
        case Phase.CANARY:
            return _after_step(rollout, now_ms)
        case _:
            return next_of_preparing(rollout, now_ms)


def rollout_document(rollout: Rollout, now_ms: int) -> dict[str, Any]:
    """The view as a JSON object, beside the record itself."""
    left = time_left(rollout, now_ms)
    judged = rollout.judgement or {}
    return {
        "steps": [asdict(step) for step in step_views(rollout)],
        "n_users": dict(judged.get("n_users") or {}),
        "metrics": list(judged.get("comparisons") or ()),
        "verdict": judged.get("verdict"),
        "deciding": judged.get("deciding"),
        "time_left": None if left is None else asdict(left),
        "shadow": shadow_document(rollout),
        "next": next_move(rollout, now_ms),
    }


def rollout_line(rollout: Rollout, now_ms: int) -> str:
    """The view as one line, for where a page cannot be redrawn."""
    left = time_left(rollout, now_ms)
    is_open = rollout.present_step is not None and rollout.opened_ms is not None
    at = f" step {rollout.step + 1} of {len(rollout.steps)}" if is_open else ""
    users = _users_text(rollout.judgement or {})
    shadow = shadow_text(rollout) if rollout.opened_ms is None else ""
    parts = [f"{rollout.phase}{at}: {rollout.message}", shadow, users, _left_text(left)]
    return "; ".join(part for part in parts if part)


def rollout_page(rollout: Rollout, now_ms: int) -> Group:
    """The whole view for a terminal."""
    from rich.console import Group
    from rich.text import Text

    head = (
        f"rollout {rollout.rollout_id}, plan {rollout.plan_name}: {rollout.bundle_id} over "
        f"{rollout.stable_id}"
    )
    parts: list[RenderableType] = [
        Text(head),
        Text(f"{rollout.phase}: {rollout.message}", style=_style(rollout)),
    ]
    # What matters most comes first: a low terminal shows the top alone.
    parts.append(Text(f"next: {next_move(rollout, now_ms)}"))
    left = _left_text(time_left(rollout, now_ms))
    if left:
        parts.append(Text(left))
    parts += _shadow_parts(rollout)
    judged = rollout.judgement or {}
    parts += [Text(line) for line in (_users_text(judged), _ratio_text(judged)) if line]
    if judged.get("comparisons"):
        parts.append(_metrics_table(rollout, judged))
    if rollout.plan is not None and rollout.plan.steps:
        parts.append(_steps_table(rollout))
    return Group(*parts)


def _state(rollout: Rollout, number: int) -> str:
    if rollout.phase in {Phase.PROMOTED, Phase.PROMOTING} or number < rollout.step:
        return "done"
    if rollout.phase in {Phase.STARTING, Phase.PREPARING}:
        return "to come"
    if number == rollout.step:
        return "left" if rollout.phase is Phase.ABORTED else "present"
    return "left" if rollout.phase is Phase.ABORTED else "to come"


def _after_step(rollout: Rollout, now_ms: int) -> str:
    step, plan = rollout.present_step, rollout.plan
    if step is None or plan is None:
        return "the evidence decides"
    is_last = rollout.step + 1 == len(rollout.steps)
    then = "all traffic" if is_last else f"share {rollout.steps[rollout.step + 1]:g}"
    waited_s = (now_ms - rollout.since_ms) / 1000
    conditions = []
    if (rollout.judgement or {}).get("verdict") != "pass":
        conditions.append("the evidence passes")
    least_s = plan.min_time_s(rollout.step) - waited_s
    if least_s > 0:
        conditions.append(f"{duration_text(least_s)} more have passed")
    text = f"{then} once {' and '.join(conditions)}" if conditions else f"{then} at the next turn"
    if step.max_s is None:
        return text
    rest_s = step.max_s - waited_s
    after = "abort" if step.on_timeout is OnTimeout.ABORT else "holds for an operator"
    if rest_s > 0:
        return f"{text}; after {duration_text(rest_s)} undecided: {after}"
    return f"{text}; its longest time is over: 'cluster canary step', 'promote --full' or 'abort'"


def _steps_table(rollout: Rollout) -> RenderableType:
    table = plain_table("steps; the baseline is as large as the canary")
    for column in ("step", "canary", "state", "shortest", "longest", "users", "requests"):
        table.add_column(column)
    for step in step_views(rollout):
        longest = "no end" if step.max_s is None else duration_text(step.max_s)
        table.add_row(
            str(step.number),
            f"{step.share:.2%}",
            step.state,
            duration_text(step.min_s),
            longest,
            f"{step.min_users:,}",
            f"{step.min_requests:,}",
            style="bold" if step.state == "present" else None,
        )
    return table


def _metrics_table(rollout: Rollout, judged: Mapping[str, Any]) -> RenderableType:
    from rich.text import Text

    rules = {} if rollout.plan is None else {rule.name: rule for rule in rollout.plan.rules}
    table = plain_table("canary against baseline")
    for column in _COLUMNS:
        # A narrow terminal breaks lines within intervals, and cuts no name.
        table.add_column(column, no_wrap=column in {"metric", "role", "verdict"})
    for found in judged["comparisons"]:
        shape = rules[found["metric"]].shape if found["metric"] in rules else ""
        is_rate = str(shape) == "rate"
        verdict = str(found["verdict"])
        table.add_row(
            found["metric"],
            str(found["role"]),
            value_text(found["baseline"]),
            value_text(found["canary"]),
            effect_text(found["effect"], is_rate=is_rate),
            interval_text(found["low"], found["high"], is_rate=is_rate),
            margin_text(found["margin"], str(found["better"]), is_rate=is_rate),
            Text(verdict, style=VERDICT_STYLE.get(verdict, "")),
        )
    return table


def _shadow_parts(rollout: Rollout) -> list[RenderableType]:
    """The line of the comparison, and its checks until the first user."""
    from rich.text import Text

    line = shadow_text(rollout)
    parts: list[RenderableType] = [Text(line)] if line else []
    if rollout.shadow_judgement is not None and rollout.opened_ms is None:
        parts.append(shadow_table(rollout.shadow_judgement))
    return parts


def _users_text(judged: Mapping[str, Any]) -> str:
    users = judged.get("n_users") or {}
    if not users:
        return ""
    return f"users: canary {users.get(CANARY, 0):,}, baseline {users.get(BASELINE, 0):,}"


def _ratio_text(judged: Mapping[str, Any]) -> str:
    p = judged.get("sample_ratio_p")
    return "" if p is None else f"sample ratio: p = {p:.3g}"


def _left_text(left: TimeLeft | None) -> str:
    if left is None:
        return ""
    most = "without end" if left.max_s is None else f"at most {duration_text(left.max_s)}"
    return f"time left: at least {duration_text(left.min_s)}, {most}"


def _style(rollout: Rollout) -> str:
    if rollout.reason is Reason.HALTED or rollout.phase is Phase.ABORTED:
        return "red"
    return "green" if rollout.phase is Phase.PROMOTED else "yellow"
