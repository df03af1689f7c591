"""All metrics of a step together: pass, fail, or what is still missing. Pure.

NaN, absent data and arms that cannot be compared never pass, and never raise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.evidence.arm_sample import ArmSample
from recsys.evidence.comparison import Comparison, Verdict, compare
from recsys.evidence.metric_rules import ABORTING, MetricRule, Role
from recsys.evidence.sample_ratio import sample_ratio_p

SAMPLE_RATIO_ALPHA = 0.001
"""Below, the arms' users are not comparable: something chooses who is counted."""
SILENT_REQUESTS = 20
"""After so many requests and no answer the canary is dead."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict with what decided it."""

    verdict: Verdict
    deciding: str
    """A metric, or `answers`, `sample_ratio`, `min_users`, `min_requests`, `metrics`."""
    message: str
    comparisons: tuple[Comparison, ...]
    sample_ratio_p: float | None
    n_users: Mapping[str, int]
    """By variant."""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "verdict": str(self.verdict),
            "deciding": self.deciding,
            "message": self.message,
            "comparisons": [one.to_json() for one in self.comparisons],
            "sample_ratio_p": self.sample_ratio_p,
            "n_users": dict(self.n_users),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Judgement:
        """The judgement of a JSON object.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        p = document["sample_ratio_p"]
        return cls(
            Verdict(document["verdict"]),
            str(document["deciding"]),
            str(document["message"]),
            tuple(Comparison.from_json(one) for one in document["comparisons"]),
            None if p is None else float(p),
            {str(name): int(n) for name, n in document["n_users"].items()},
        )


@dataclass(frozen=True, slots=True)
class _Finding:
    verdict: Verdict
    deciding: str
    message: str


def judge(
    rules: Sequence[MetricRule],
    baseline: ArmSample,
    canary: ArmSample,
    *,
    alpha: float,
    min_users: int,
    min_requests: int,
    expected_ratio: float = 1.0,
    n_critical: int | None = None,
) -> Judgement:
    """Judge a canary by all rules; a sound one fails at any look with a chance of at most alpha.

    Alpha is split evenly over the metrics that may abort, and over the signals for theirs
    (Bonferroni).

    Args:
        expected_ratio: users of the canary per user of the baseline.
        n_critical: metrics that may abort, of all steps of a rollout, where its steps judge by
            different ones; None is those of `rules`.
    """
    n_aborting = sum(rule.role in ABORTING for rule in rules)
    splits = dict.fromkeys(ABORTING, max(n_critical or 0, n_aborting))
    splits[Role.SIGNAL] = len(rules) - n_aborting
    comparisons = tuple(
        compare(rule, baseline, canary, alpha / splits[rule.role]) for rule in rules
    )
    n_users = {"baseline": baseline.n_users, "canary": canary.n_users}
    p = None
    if any(n_users.values()) and expected_ratio > 0:
        p = sample_ratio_p(baseline.n_users, canary.n_users, expected_ratio)
    needs = _Needs(baseline, canary, min_users, min_requests, p)
    found = next(_findings(comparisons, needs))
    return Judgement(found.verdict, found.deciding, found.message, comparisons, p, n_users)


@dataclass(frozen=True)
class _Needs:
    baseline: ArmSample
    canary: ArmSample
    min_users: int
    min_requests: int
    sample_ratio_p: float | None


def _findings(comparisons: Sequence[Comparison], needs: _Needs) -> Iterator[_Finding]:
    """What decides, the first before the next; the last always does."""
    critical = [one for one in comparisons if one.role is Role.CRITICAL]
    yield from _no_answers(needs)
    for one in comparisons:
        if one.role in ABORTING and one.verdict is Verdict.FAIL:
            yield _Finding(Verdict.FAIL, one.metric, one.message)
    yield from _too_little(needs)
    yield from _uneven(needs)
    for one in critical:
        if one.verdict is not Verdict.PASS:
            message = f"{one.message}; needs {one.needed}"
            yield _Finding(Verdict.INCONCLUSIVE, one.metric, message)
    for one in comparisons:
        if one.verdict is Verdict.FAIL:
            message = f"{one.message}; held, since it is a signal"
            yield _Finding(Verdict.INCONCLUSIVE, one.metric, message)
    if not comparisons:
        yield _Finding(Verdict.INCONCLUSIVE, "metrics", "no metric is judged; name some")
    passed = f"{len(critical)} critical metrics exclude a loss beyond their margins"
    yield _Finding(Verdict.PASS, "metrics", passed)


def _no_answers(needs: _Needs) -> Iterator[_Finding]:
    requests = needs.canary.counts.get("requests", 0.0)
    answers = [arm.counts.get("answered", 0.0) for arm in (needs.baseline, needs.canary)]
    if requests >= SILENT_REQUESTS and answers[1] == 0 and answers[0] > 0:
        message = f"the canary answered none of {requests:,.0f} requests, the baseline does"
        yield _Finding(Verdict.FAIL, "answers", message)


def _too_little(needs: _Needs) -> Iterator[_Finding]:
    arms = (needs.baseline, needs.canary)
    users = [arm.n_users for arm in arms]
    requests = [arm.counts.get("requests", 0.0) for arm in arms]
    for name, wanted, found in (
        ("min_users", needs.min_users, [float(n) for n in users]),
        ("min_requests", needs.min_requests, requests),
    ):
        if not min(found) >= wanted:
            what = name.removeprefix("min_")
            message = (
                f"{what}: baseline {found[0]:,.0f}, canary {found[1]:,.0f},"
                f" the step needs {wanted:,} of each"
            )
            yield _Finding(Verdict.INCONCLUSIVE, name, message)


def _uneven(needs: _Needs) -> Iterator[_Finding]:
    p = needs.sample_ratio_p
    if p is not None and p < SAMPLE_RATIO_ALPHA:
        message = (
            f"sample ratio: {needs.baseline.n_users:,} users of the baseline and"
            f" {needs.canary.n_users:,} of the canary are not the split that was set"
            f" (p {p:.2g}); find out who is missing before comparing them"
        )
        yield _Finding(Verdict.INCONCLUSIVE, "sample_ratio", message)
