"""What `cluster canary` shows of a rollout's shadow comparison: pure, over its record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cluster.rollouts.deciding.preparing import is_shadowing, wants_shadow
from cluster.rollouts.deciding.rollout_plan import OnShadowTimeout
from cluster.rollouts.deciding.rollout_record import Phase, Rollout, Shadowing
from cluster.rollouts.verbs.metric_text import UNKNOWN, duration_text, value_text

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

VERDICT_STYLE = {"pass": "green", "fail": "red", "inconclusive": "yellow"}
_AFTER = {
    OnShadowTimeout.GO_ON: "goes on",
    OnShadowTimeout.HOLD: "holds for an operator",
    OnShadowTimeout.ABORT: "abort",
}


def shadow_time_left(rollout: Rollout, now_ms: int) -> float | None:
    """How long the comparison still takes at most, seconds; None where it may take for ever."""
    plan = rollout.plan
    before_it = rollout.phase is Phase.STARTING or wants_shadow(rollout)
    if plan is None or not plan.shadow_requests or rollout.phase not in _EARLY:
        return 0.0
    if not (before_it or is_shadowing(rollout)):
        return 0.0
    if plan.on_shadow_timeout is OnShadowTimeout.HOLD:
        return None
    spent_s = 0.0 if before_it else max(now_ms - rollout.since_ms, 0) / 1000
    return max(plan.shadow_max_s - spent_s, 0.0)


def next_of_preparing(rollout: Rollout, now_ms: int) -> str:
    """What comes before the first user, and what it waits for."""
    plan = rollout.plan
    share = f"share {rollout.steps[0]:g}" if rollout.steps else "share 1"
    if plan is None or not (is_shadowing(rollout) or wants_shadow(rollout)):
        return f"{share} once every replica holds the bundle"
    answers = f"{plan.shadow_requests:,} answers on copies of requests are compared"
    if not is_shadowing(rollout):
        return f"{answers} once every replica holds the bundle, then {share}"
    left_s = plan.shadow_max_s - (now_ms - rollout.since_ms) / 1000
    after = _AFTER[plan.on_shadow_timeout]
    if left_s > 0:
        return f"{share} once {answers}; after {duration_text(left_s)} undecided: {after}"
    return f"{share} once {answers}; its longest time is over: 'cluster canary step' or 'abort'"


def shadow_document(rollout: Rollout) -> dict[str, Any] | None:
    """The comparison as a JSON object; None where the plan makes none."""
    plan = rollout.plan
    if plan is None or not plan.shadow_requests:
        return None
    return {
        "state": str(rollout.shadow),
        "share": plan.shadow_share,
        "n_wanted": plan.shadow_requests,
        "max_s": plan.shadow_max_s,
        "on_timeout": str(plan.on_shadow_timeout),
        "judgement": None if rollout.shadow_judgement is None else dict(rollout.shadow_judgement),
    }


def shadow_text(rollout: Rollout) -> str:
    """The comparison as one line; empty where there is none to tell of."""
    plan = rollout.plan
    if plan is None or not plan.shadow_requests or rollout.shadow is Shadowing.NONE:
        return ""
    judged = rollout.shadow_judgement
    if judged is None:
        return f"shadow: no answer of {plan.shadow_requests:,} is compared yet"
    return (
        f"shadow: {judged['n_compared']:,} of {judged['n_wanted']:,} answers compared, overlap "
        f"{value_text(judged['overlap'])}, rbo {value_text(judged['rbo'])}; of "
        f"{judged['n']:,} copies {judged['n_failed']:,} failed, {judged['n_degraded']:,} degraded"
    )


def shadow_lines(rollout: Rollout) -> list[str]:
    """The comparison for `explain`: the verdict, and each check with its bounds."""
    judged = rollout.shadow_judgement
    if judged is None:
        line = shadow_text(rollout)
        return [line] if line else []
    lines = [shadow_text(rollout), f"shadow verdict: {judged['verdict']}: {judged['message']}"]
    for check in judged["checks"]:
        if check["metric"] != judged["deciding"]:
            lines.append(f"  {check['verdict']:<12} {check['message']}")
    return lines


def plain_table(title: str) -> Table:
    """A table without a frame, which leaves its width to what it says."""
    from rich import box
    from rich.table import Table

    return Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 0)
    )


def shadow_table(judged: Mapping[str, Any]) -> RenderableType:
    """The checks as a table."""
    from rich.text import Text

    table = plain_table("shadow against live")
    for column in ("metric", "live", "shadow", "interval", "limit", "verdict"):
        table.add_column(column)
    for check in judged["checks"]:
        verdict = str(check["verdict"])
        table.add_row(
            check["metric"],
            _number_text(check["live"]),
            _number_text(check["shadow"]),
            _interval_text(check["low"], check["high"]),
            _limit_text(check),
            Text(verdict, style=VERDICT_STYLE.get(verdict, "")),
        )
    return table


_EARLY = {Phase.STARTING, Phase.PREPARING}


def _interval_text(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return UNKNOWN
    return f"[{_number_text(low)}, {_number_text(high)}]"


def _number_text(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:,.3g}"


def _limit_text(check: Mapping[str, Any]) -> str:
    limit = value_text(check["limit"])
    if check["metric"] == "overlap":
        return f"at least {limit}"
    return f"at most {limit}" if check["metric"] == "failed_share" else f"at most {limit} x live"
