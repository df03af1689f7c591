"""What the demo demands of a rollout that the evidence decided."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from cluster.demo.demo_rollout import (
    check_aborted,
    check_promoted,
    plan_text,
    verdict_of,
)
from cluster.demo.spoiled_bundle import forget_order
from cluster.rollouts.deciding.rollout_plan_file import plan_named
from recsys.errors import RecsysError
from recsys.evidence.metric_rules import Role


def explained(phase: str, verdict: str, low: float | None, high: float | None) -> dict[str, Any]:
    """What `canary explain` prints of a rollout that ended at its second step."""
    ctr = {"metric": "ctr", "effect": 0.1, "low": low, "high": high}
    return {
        "rollout": {
            "rollout_id": "r1",
            "bundle_id": "b2",
            "stable_id": "b1",
            "phase": phase,
            "message": "said so",
            "step": 1,
            "plan": {"steps": [{"share": 0.1}, {"share": 0.5}]},
            "started_ms": 1_000,
            "since_ms": 31_000,
        },
        "judgement": {
            "verdict": verdict,
            "deciding": "ctr" if verdict == "fail" else "metrics",
            "comparisons": [{**ctr, "n_canary": 300, "n_baseline": 310}],
            "n_users": {"canary": 300, "baseline": 310},
        },
        "why": ["because"],
    }


@pytest.mark.parametrize("waits_for_clicks", [True, False])
def test_the_plan_is_one_that_a_rollout_takes(tmp_path: Path, waits_for_clicks: bool) -> None:
    """Clicks must pass at the last step where they mean something, and abort everywhere."""
    path = tmp_path / "demo.toml"
    path.write_text(plan_text(waits_for_clicks=waits_for_clicks))
    plan = plan_named(str(path))
    roles = [{rule.name: rule.role for rule in plan.rules_of(n)}["ctr"] for n in range(2)]
    assert roles == [Role.GUARD, Role.CRITICAL if waits_for_clicks else Role.GUARD]
    assert plan.shares == (0.25, 0.5)


def test_a_promotion_by_a_pass_is_accepted_with_its_figures() -> None:
    """Time, users and interval are those of the record."""
    found = verdict_of(explained("promoted", "pass", 0.01, 0.2), n_answered=900)
    check_promoted(found, waits_for_clicks=True)
    assert (found.seconds, found.n_exposed, found.share) == (30.0, 300, 0.5)


@pytest.mark.parametrize(
    ("phase", "verdict", "low"),
    [
        ("aborted", "inconclusive", -0.2),
        ("promoted", "inconclusive", 0.0),
        ("promoted", "pass", -0.06),
        ("promoted", "pass", None),
    ],
)
def test_what_the_evidence_left_open_is_no_promotion(
    phase: str, verdict: str, low: float | None
) -> None:
    """An interval that holds a loss beyond the margin, and no verdict at all."""
    found = verdict_of(explained(phase, verdict, low, 0.2), n_answered=900)
    with pytest.raises(RecsysError, match="expected it to be promoted by a pass"):
        check_promoted(found, waits_for_clicks=True)


def test_an_abort_must_be_a_loss_shown_by_clicks() -> None:
    """A loss that reaches into the margin decides nothing."""
    check_aborted(verdict_of(explained("aborted", "fail", -0.6, -0.2), n_answered=70))
    with pytest.raises(RecsysError, match="aborted by a fail of ctr"):
        check_aborted(verdict_of(explained("aborted", "fail", -0.6, -0.01), n_answered=70))


def test_without_a_judgement_nothing_is_known() -> None:
    """A rollout that was refused has no figures, and is neither wanted end."""
    document = {**explained("aborted", "fail", None, None), "judgement": None}
    found = verdict_of(document, n_answered=0)
    assert math.isnan(found.effect)
    with pytest.raises(RecsysError, match="no judgement"):
        check_aborted(found)


def test_a_bundle_without_order_keeps_the_rest_of_its_settings(tmp_path: Path) -> None:
    """Only what makes the draw random is changed."""
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"ordering": {"pool": 60, "max_per_creator": 2}, "other": 1}))
    forget_order(path)
    found = json.loads(path.read_text())
    assert found["other"] == 1
    assert found["ordering"]["max_per_creator"] == 2
    assert found["ordering"]["exploration"] == 1.0
