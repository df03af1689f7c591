"""Why a rollout stands where it stands, and how it came there: pure, over its record and turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.verbs.canary_view import next_move
from cluster.rollouts.verbs.metric_text import (
    duration_text,
    effect_text,
    interval_text,
    margin_text,
    value_text,
)
from cluster.rollouts.verbs.shadow_view import shadow_lines

if TYPE_CHECKING:
    from cluster.rollouts.deciding.rollout_turn import RecordedTurn

_NOT_BY_EVIDENCE = {
    Reason.OPERATOR: "an operator decided, not the evidence",
    Reason.SKIPPED: "an operator went on without a verdict",
    Reason.FORCED: "an operator promoted it without a verdict",
    Reason.REFUSED: "a replica refused the bundle: what it loaded or answered was not right",
    Reason.LATE: "the replicas were not in time, so no user was answered by it or all went back",
    Reason.HALTED: "it can go neither on nor back, because neither bundle is healthy",
}


@dataclass(frozen=True, slots=True)
class Chapter:
    """Turns that left a rollout at the same place, told once."""

    since_ms: int
    until_ms: int
    n_turns: int
    phase: str
    step: int
    """From 1; 0 outside of the steps."""
    reason: str
    who: str
    verdict: str
    """Of the latest of these turns that was judged; empty without one."""
    deciding: str
    message: str


def chapters(turns: Sequence[RecordedTurn]) -> tuple[Chapter, ...]:
    """The turns as a story: one chapter per phase, step and reason."""
    told: list[Chapter] = []
    places: list[tuple[Phase, int, Reason]] = []
    for recorded in turns:
        after, judged = recorded.after, recorded.turn.judgement
        place = (after.phase, after.step, after.reason)
        if places and places[-1] == place:
            before = told.pop()
            since_ms, n_turns = before.since_ms, before.n_turns + 1
            verdict, deciding = before.verdict, before.deciding
        else:
            places.append(place)
            since_ms, n_turns, verdict, deciding = recorded.turn.at_ms, 1, "", ""
        if judged is not None:
            verdict, deciding = str(judged.verdict), judged.deciding
        at_step = after.step + 1 if after.present_step is not None and after.opened_ms else 0
        told.append(
            Chapter(
                since_ms,
                recorded.turn.at_ms,
                n_turns,
                str(after.phase),
                at_step,
                str(after.reason),
                recorded.who,
                verdict,
                deciding,
                after.message,
            )
        )
    return tuple(told)


def deciding_comparison(rollout: Rollout) -> Mapping[str, Any] | None:
    """The comparison that decided last; None where something else than a metric did."""
    judged = rollout.judgement or {}
    for found in judged.get("comparisons") or ():
        if found["metric"] == judged.get("deciding"):
            return dict(found)
    return None


def why_lines(rollout: Rollout, now_ms: int) -> list[str]:
    """Why it stands there: what decided, by how much, on how many, and what would change it."""
    where = f" at step {rollout.step + 1}" if rollout.present_step and rollout.opened_ms else ""
    lines = [
        f"rollout {rollout.rollout_id} of {rollout.bundle_id} over {rollout.stable_id} is "
        f"{rollout.phase}{where}",
        f"because: {rollout.message}",
    ]
    if rollout.reason in _NOT_BY_EVIDENCE:
        lines.append(f"decided by: {_NOT_BY_EVIDENCE[rollout.reason]}")
    lines += shadow_lines(rollout)
    judged = rollout.judgement
    if judged is None:
        lines.append("evidence: none was judged")
    else:
        lines += _evidence_lines(rollout, judged)
    lines.append(f"next: {next_move(rollout, now_ms)}")
    return lines


def chapter_line(chapter: Chapter, started_ms: int) -> str:
    """One chapter as a line, its time counted from the rollout's start."""
    after = duration_text((chapter.since_ms - started_ms) / 1000)
    at = f" step {chapter.step}" if chapter.step else ""
    lasted_s = (chapter.until_ms - chapter.since_ms) / 1000
    turns = f" ({chapter.n_turns} turns, {duration_text(lasted_s)})" if chapter.n_turns > 1 else ""
    verdict = f" [{chapter.verdict} by {chapter.deciding}]" if chapter.verdict else ""
    return f"+{after:<8} {chapter.phase}{at}{verdict}: {chapter.message}{turns}  ({chapter.who})"


def _evidence_lines(rollout: Rollout, judged: Mapping[str, Any]) -> list[str]:
    lines = [f"evidence: {judged.get('verdict')}: {judged.get('message')}"]
    deciding = deciding_comparison(rollout)
    if deciding is None:
        lines.append(f"deciding: {judged.get('deciding')}")
    else:
        lines += [f"deciding: {_sentence(rollout, deciding)}", *_needed(deciding)]
    others = [
        found
        for found in judged.get("comparisons") or ()
        if found is not deciding and found["metric"] != judged.get("deciding")
    ]
    for found in others:
        lines.append(f"  {found['verdict']:<12} {_sentence(rollout, found)}")
        if found["verdict"] != "pass":
            lines += [f"  {'':<12} {line}" for line in _needed(found)]
    p = judged.get("sample_ratio_p")
    if p is not None:
        lines.append(f"sample ratio: p = {p:.3g}; a small one says the slices are not alike")
    return lines


def _needed(found: Mapping[str, Any]) -> list[str]:
    needed = found.get("needed")
    return [f"what would change it: {needed}"] if needed else []


def _sentence(rollout: Rollout, found: Mapping[str, Any]) -> str:
    rules = {} if rollout.plan is None else {rule.name: rule for rule in rollout.plan.rules}
    rule = rules.get(found["metric"])
    is_rate = rule is not None and str(rule.shape) == "rate"
    return (
        f"{found['metric']} ({found['role']}): canary {value_text(found['canary'])} against "
        f"{value_text(found['baseline'])}, {effect_text(found['effect'], is_rate=is_rate)} with "
        f"interval {interval_text(found['low'], found['high'], is_rate=is_rate)}, allowed "
        f"{margin_text(found['margin'], str(found['better']), is_rate=is_rate)}; n = "
        f"{found['n_canary']:,} canary, {found['n_baseline']:,} baseline"
    )
