"""What an operator reads of a rollout: its page, its line, and why it stands there."""

from __future__ import annotations

from dataclasses import replace

from cluster.console import as_text
from cluster.rollouts.deciding.rollout_plan import (
    OnShadowTimeout,
    PlanStep,
    RolloutPlan,
    built_in,
)
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout, Shadowing
from cluster.rollouts.deciding.rollout_turn import RecordedTurn, Turn, Verb
from cluster.rollouts.verbs.canary_explain import (
    chapter_line,
    chapters,
    deciding_comparison,
    why_lines,
)
from cluster.rollouts.verbs.canary_view import (
    next_move,
    rollout_document,
    rollout_line,
    rollout_page,
    step_views,
    time_left,
)
from recsys.evidence.metric_rules import METRICS
from recsys.evidence.shadow_sums_json import shadow_sums_from_json
from recsys.evidence.shadow_verdict import ShadowNeeds, judge_shadow
from tests.rollouts_for_tests import shadow_sums

JUDGEMENT = {
    "verdict": "inconclusive",
    "deciding": "ctr",
    "message": "ctr is undecided",
    "sample_ratio_p": 0.4,
    "n_users": {"canary": 1200, "baseline": 1180},
    "comparisons": [
        {
            "metric": "ctr",
            "role": "critical",
            "better": "higher",
            "margin": 0.02,
            "n_baseline": 1180,
            "n_canary": 1200,
            "baseline": 0.1,
            "canary": 0.097,
            "effect": -0.03,
            "low": -0.08,
            "high": None,
            "verdict": "inconclusive",
            "message": "undecided",
            "needed": "about 4,100 more users per arm",
        },
        {
            "metric": "error_rate",
            "role": "critical",
            "better": "lower",
            "margin": 0.01,
            "n_baseline": 5000,
            "n_canary": 5000,
            "baseline": 0.001,
            "canary": 0.002,
            "effect": 0.001,
            "low": -0.001,
            "high": 0.003,
            "verdict": "pass",
            "message": "passes",
            "needed": "",
        },
    ],
}
PLAN = RolloutPlan(
    "two",
    (
        PlanStep(0.05, 100, 500, min_s=60.0, max_s=600.0, metrics=("error_rate",)),
        PlanStep(0.5, 400, 2_000, min_s=120.0, max_s=900.0, metrics=("error_rate", "ctr")),
    ),
    (METRICS["error_rate"], METRICS["ctr"]),
)


def a_rollout(**changes: object) -> Rollout:
    """A rollout at the second of two steps, judged."""
    rollout = Rollout(
        "r1",
        "b2",
        "b1",
        "two",
        PLAN.shares,
        ("b1",),
        ("b2", "b1"),
        0,
        60_000,
        100_000,
        phase=Phase.CANARY,
        step=1,
        reason=Reason.UNDECIDED,
        message="step 2 of 2 is undecided: ctr",
        plan=PLAN,
        opened_ms=10_000,
        judgement=JUDGEMENT,
    )
    return replace(rollout, **changes)  # type: ignore[arg-type]


def test_the_page_shows_steps_users_metrics_and_what_is_next() -> None:
    """With intervals in percent, rates in points, and an unknown end left open."""
    page = as_text(rollout_page(a_rollout(), 130_000))
    for said in (
        "5.00%",
        "done",
        "present",
        "canary 1,200, baseline 1,180",
        "[-8.00, -] %",
        "[-0.10, +0.30] pp",
        "-2 %",
        "+1 pp",
        "at least 90 s".replace("90 s", "2 min"),
        "all traffic once the evidence passes",
    ):
        assert said in page


def test_time_left_counts_what_was_waited() -> None:
    """And has no end where a step has none."""
    left = time_left(a_rollout(), 130_000)
    assert left is not None
    assert (left.min_s, left.max_s) == (90.0, 870.0)
    endless = time_left(a_rollout(plan=built_in("standard"), step=0), 130_000)
    assert endless is not None
    assert endless.max_s is None
    assert time_left(a_rollout(phase=Phase.ABORTED), 130_000) is None


def test_a_record_without_a_plan_or_evidence_can_be_shown() -> None:
    """As those of an instant rollout, and of earlier releases."""
    bare = a_rollout(plan=None, steps=(), step=0, judgement=None, phase=Phase.PREPARING)
    assert "preparing" in as_text(rollout_page(bare, 0))
    assert rollout_line(bare, 0).startswith("preparing: ")
    assert rollout_document(bare, 0)["metrics"] == []
    assert "none was judged" in "\n".join(why_lines(bare, 0))


def test_an_overdue_step_says_what_ends_it() -> None:
    """The operator's three verbs."""
    assert "'cluster canary step'" in next_move(a_rollout(), 100_000 + 901_000)


def test_steps_after_an_abort_are_left() -> None:
    """Those before it are done."""
    states = [view.state for view in step_views(a_rollout(phase=Phase.ABORTED, step=0))]
    assert states == ["left", "left"]


def test_explaining_names_the_deciding_metric_and_what_would_change_it() -> None:
    """With interval, margin and n."""
    text = "\n".join(why_lines(a_rollout(), 130_000))
    deciding = deciding_comparison(a_rollout())
    assert deciding is not None
    assert deciding["metric"] == "ctr"
    assert "about 4,100 more users per arm" in text
    assert "n = 1,200 canary, 1,180 baseline" in text
    assert "allowed -2 %" in text


def test_an_operators_word_is_told_as_such() -> None:
    """The evidence did not decide."""
    text = "\n".join(why_lines(a_rollout(phase=Phase.PROMOTING, reason=Reason.FORCED), 0))
    assert "without a verdict" in text


def test_turns_at_one_place_are_one_chapter() -> None:
    """Told from the first to the last of them."""
    places = [a_rollout(), a_rollout(), a_rollout(phase=Phase.ABORTED, reason=Reason.EVIDENCE)]
    turns = [
        RecordedTurn("r1", number, "c1", Turn(Verb.ADVANCE, 1_000 * number), after)
        for number, after in enumerate(places, start=1)
    ]
    told = chapters(turns)
    assert [(one.phase, one.n_turns) for one in told] == [("canary", 2), ("aborted", 1)]
    assert "(2 turns, 1 s)" in chapter_line(told[0], 0)
    assert chapters([]) == ()


def a_shadowed(**changes: object) -> Rollout:
    """A rollout whose answers are compared on copies."""
    plan = replace(PLAN, shadow_requests=500, min_overlap=0.5)
    needs = ShadowNeeds(500, 0.5, 0.05)
    judged = judge_shadow(shadow_sums_from_json(shadow_sums(320, 4)), needs).to_json()
    early = a_rollout(
        phase=Phase.PREPARING,
        step=0,
        plan=plan,
        opened_ms=None,
        judgement=None,
        shadow=Shadowing.RUNNING,
        shadow_judgement=judged,
        message="the shadow comparison is undecided",
    )
    return replace(early, **changes)  # type: ignore[arg-type]


def test_a_shadow_comparison_is_shown_with_its_checks_and_what_is_next() -> None:
    """On the page, in the line, as JSON, and explained."""
    page = as_text(rollout_page(a_shadowed(), 130_000))
    for said in (
        "316 of 500 answers compared, overlap 0.7, rbo 0.6; of 320 copies 4 failed, 0 degraded",
        "failed_share",
        "at least 0.5",
        "after 30 min undecided: holds for an operator",
        "without end",
    ):
        assert said in page
    assert "316 of 500" in rollout_line(a_shadowed(), 0)
    shown = rollout_document(a_shadowed(), 0)["shadow"]
    assert (shown["state"], shown["judgement"]["n_failed"]) == ("running", 4)
    told = "\n".join(why_lines(a_shadowed(), 0))
    assert "shadow verdict: inconclusive: 316 of 500 answers are compared" in told
    assert "overlap: 0.700 with interval" in told
    assert rollout_document(a_rollout(), 0)["shadow"] is None


def test_a_comparison_that_goes_on_by_itself_bounds_the_time_left() -> None:
    """What it waited counts; one beyond its longest time says what ends it."""
    plan = replace(
        PLAN, shadow_requests=9, shadow_max_s=60.0, on_shadow_timeout=OnShadowTimeout.GO_ON
    )
    left = time_left(a_shadowed(plan=plan, since_ms=100_000), 130_000)
    assert left is not None
    assert left.max_s == 30.0 + 600.0 + 900.0
    fresh = a_shadowed(plan=plan, shadow=Shadowing.NONE, shadow_judgement=None)
    assert "9 answers on copies" in next_move(fresh, 0)
    assert "'cluster canary step' or 'abort'" in next_move(a_shadowed(plan=plan), 200_000)
