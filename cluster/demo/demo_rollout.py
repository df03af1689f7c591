"""How the demo replaces a bundle by evidence: its plan, and what an ended rollout showed. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.errors import RecsysError

METRIC = "ctr"
"""What decides; the others guard that it works at all."""
ALLOWED_LOSS = 0.05
LAST_STEP_S = 180.0
"""Undecided for longer, the rollout is aborted and the demo fails."""


@dataclass(frozen=True, slots=True)
class EvidenceVerdict:
    """How one rollout ended and the figures that ended it."""

    rollout_id: str
    bundle_id: str
    stable_id: str
    phase: str
    verdict: str
    """Of the last judgement; empty without one."""
    deciding: str
    message: str
    effect: float
    """Of the click rate, relative; NaN where it was not estimated."""
    low: float
    high: float
    n_canary: int
    n_baseline: int
    seconds: float
    """From the start to the end."""
    n_exposed: int
    """Users whom it answered before the end; of a promoted one only those that were judged."""
    share: float
    """Of the users, the canary's at the last step."""
    why: Sequence[str]
    """What `cluster canary explain` says."""

    @property
    def sentence(self) -> str:
        """The figures as a sentence."""
        met = "judged" if self.phase == "promoted" else "exposed"
        return (
            f"{METRIC} {self.effect:+.1%}, interval {self.low:+.1%} to {self.high:+.1%}, n = "
            f"{self.n_canary} canary and {self.n_baseline} baseline users; {self.seconds:.0f} s, "
            f"{self.n_exposed} users {met} at a share of {self.share:.0%}"
        )


def plan_text(*, waits_for_clicks: bool) -> str:
    """The demo's plan as the TOML that `cluster canary start --plan` reads.

    Args:
        waits_for_clicks: whether the click rate must pass; otherwise a loss of it only aborts,
            for people whose reactions say nothing of how good a bundle is.
    """
    guards = "" if waits_for_clicks else f'guards = ["{METRIC}"]\n'
    return f"""name = "demo"
alpha = 0.05
label_window_s = 5.0
[[steps]]
share = 0.25
min_users = 50
min_requests = 200
min_s = 5.0
max_s = {LAST_STEP_S}
on_timeout = "abort"
metrics = ["error_rate", "degraded_share", "p50_ms", "{METRIC}"]
guards = ["{METRIC}"]
[[steps]]
share = 0.5
min_users = 200
min_requests = 1000
min_s = 5.0
max_s = {LAST_STEP_S}
on_timeout = "abort"
metrics = ["error_rate", "degraded_share", "p50_ms", "{METRIC}"]
{guards}[metrics.error_rate]
margin = 0.05
[metrics.degraded_share]
margin = 0.05
[metrics.p50_ms]
margin = 1.0
[metrics.{METRIC}]
margin = {ALLOWED_LOSS}
"""


def verdict_of(explained: Mapping[str, Any], n_answered: int) -> EvidenceVerdict:
    """The figures of a closed rollout.

    Args:
        explained: what `cluster --json canary explain` printed.
        n_answered: users whom the bundle answered, as they saw it.
    """
    rollout = explained["rollout"]
    judged = explained.get("judgement") or {}
    found = {one["metric"]: one for one in judged.get("comparisons") or ()}.get(METRIC, {})
    steps = (rollout.get("plan") or {}).get("steps") or ()
    at = min(int(rollout["step"]), len(steps) - 1) if steps else 0
    is_promoted = rollout["phase"] == "promoted"
    n_judged = int((judged.get("n_users") or {}).get("canary", 0))
    return EvidenceVerdict(
        rollout_id=str(rollout["rollout_id"]),
        bundle_id=str(rollout["bundle_id"]),
        stable_id=str(rollout["stable_id"]),
        phase=str(rollout["phase"]),
        verdict=str(judged.get("verdict", "")),
        deciding=str(judged.get("deciding", "")),
        message=str(rollout["message"]),
        effect=_number(found.get("effect"), math.nan),
        low=_number(found.get("low"), -math.inf),
        high=_number(found.get("high"), math.inf),
        n_canary=int(found.get("n_canary", 0)),
        n_baseline=int(found.get("n_baseline", 0)),
        seconds=(rollout["since_ms"] - rollout["started_ms"]) / 1000,
        # Once promoted it answers everybody; what is known of before are the judged users.
        n_exposed=n_judged if is_promoted else n_answered,
        share=float(steps[at]["share"]) if steps else 0.0,
        why=tuple(str(line) for line in explained["why"]),
    )


def check_promoted(found: EvidenceVerdict, *, waits_for_clicks: bool) -> None:
    """Demand that the evidence promoted it.

    Raises:
        RecsysError: it did not, or the interval holds a loss beyond the margin.
    """
    passed = found.verdict == "pass" and (found.low > -ALLOWED_LOSS or not waits_for_clicks)
    if found.phase != "promoted" or not passed:
        raise RecsysError(_surprise(found, "promoted by a pass"))


def check_aborted(found: EvidenceVerdict) -> None:
    """Demand that the click rate aborted it.

    Raises:
        RecsysError: it did not, or the interval holds a loss that is allowed.
    """
    failed = found.verdict == "fail" and found.deciding == METRIC and found.high < -ALLOWED_LOSS
    if found.phase != "aborted" or not failed:
        raise RecsysError(_surprise(found, f"aborted by a fail of {METRIC}"))


def _surprise(found: EvidenceVerdict, expected: str) -> str:
    verdict = found.verdict or "no judgement"
    return (
        f"rollout {found.rollout_id} of {found.bundle_id} is {found.phase} by {verdict} of "
        f"{found.deciding or 'nothing'} ({found.message}; {found.sentence}), expected it to be "
        f"{expected}; see 'cluster canary explain {found.rollout_id}'"
    )


def _number(value: object, absent: float) -> float:
    return float(value) if isinstance(value, int | float) else absent
