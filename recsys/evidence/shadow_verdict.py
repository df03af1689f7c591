"""What a shadow's answers amount to: pass, fail, or what is still missing. Pure.

Copies are made of requests that live traffic has answered, so live's share of failures among them
is 0. Each check fails only where its bound holds at any look, and passes only on a known estimate.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from recsys.evidence.comparison import Verdict
from recsys.evidence.quantile_bounds import below_edges, quantile_interval, quantile_ratio
from recsys.evidence.rate_test import rate_interval
from recsys.stores.evidence.evidence_sums import ShadowSums

MAX_FAILED_SHARE = 0.02
"""Copies wait behind live requests and may run out of time, which is no fault of the bundle."""
MAX_DEGRADED_SHARE = 0.02
"""As of failures: a few copies that ran out of time for a stage say nothing."""
MAX_LATENCY_RATIO = 3.0
"""Copies get what live requests leave; a finer comparison is the canary's, on equal slices."""
ALPHA_SHARE = 0.1
"""Of the plan's alpha, on top of it; limits this wide leave a bundle that is as good far inside."""
_QUANTILES = (("p50_ms", 0.5), ("p99_ms", 0.99))
_TAIL = "p99_ms"
_MOST_REASONS = 3


@dataclass(frozen=True, slots=True)
class ShadowNeeds:
    """What a plan asks of the comparison."""

    requests: int
    """Answers of both bundles to compare."""
    min_overlap: float | None
    """Least mean overlap of the slates, 0-1; None sets no floor."""
    alpha: float
    """The plan's."""


@dataclass(frozen=True, slots=True)
class ShadowCheck:
    """One number of the shadow against its limit."""

    metric: str
    verdict: Verdict
    live: float | None
    shadow: float | None
    """None is a number nobody knows."""
    low: float | None
    high: float | None
    """Bounds of what is limited that hold at any look; None where nothing bounds it."""
    limit: float
    message: str


@dataclass(frozen=True, slots=True)
class ShadowJudgement:
    """A verdict on a shadow's answers with what decided it."""

    verdict: Verdict
    deciding: str
    """A check's metric, or `answers` where it is their number."""
    message: str
    n: int
    n_failed: int
    n_degraded: int
    n_compared: int
    n_wanted: int
    overlap: float | None
    rbo: float | None
    checks: tuple[ShadowCheck, ...]

    def to_json(self) -> dict[str, Any]:
        """As a JSON object; what is not known is null."""
        document = asdict(self)
        document["verdict"] = str(self.verdict)
        document["checks"] = [
            {**asdict(check), "verdict": str(check.verdict)} for check in self.checks
        ]
        return document


def judge_shadow(sums: ShadowSums, needs: ShadowNeeds) -> ShadowJudgement:
    """Judge a shadow by its failures, its latency and, where the plan has a floor, its slates.

    Only failures fail before there are answers enough: the first copies meet cold caches.
    """
    n_checks = 2 + len(_QUANTILES) + (needs.min_overlap is not None)
    alpha = needs.alpha * ALPHA_SHARE / n_checks
    checks = tuple(_checks(sums, needs, alpha))
    verdict, deciding, message = next(_findings(sums, needs, checks))
    return ShadowJudgement(
        verdict,
        deciding,
        message,
        sums.n,
        sums.n_failed,
        sums.n_degraded,
        sums.n_compared,
        needs.requests,
        _known(sums.overlap),
        _known(sums.rbo),
        checks,
    )


def _checks(sums: ShadowSums, needs: ShadowNeeds, alpha: float) -> Iterator[ShadowCheck]:
    yield _failures(sums, alpha)
    is_early = not _has_enough(sums, needs)
    later = [_degraded(sums, alpha)]
    later += [_latency(sums, metric, share, alpha) for metric, share in _QUANTILES]
    if needs.min_overlap is not None:
        later.append(_overlap(sums, needs.min_overlap, alpha))
    for check in later:
        is_too_soon = is_early and check.verdict is Verdict.FAIL
        yield _undecided(check) if is_too_soon else check


def _has_enough(sums: ShadowSums, needs: ShadowNeeds) -> bool:
    return sums.n_compared >= max(needs.requests, 1)


def _undecided(check: ShadowCheck) -> ShadowCheck:
    message = check.message + _more(Verdict.INCONCLUSIVE)
    return replace(check, verdict=Verdict.INCONCLUSIVE, message=message)


def _holds(check: ShadowCheck) -> bool:
    """A p99 is known too loosely to wait for: where its bounds allow the limit, steps judge it."""
    is_loose_tail = check.metric == _TAIL and check.shadow is not None
    return check.verdict is not Verdict.PASS and not is_loose_tail


def _findings(
    sums: ShadowSums, needs: ShadowNeeds, checks: tuple[ShadowCheck, ...]
) -> Iterator[tuple[Verdict, str, str]]:
    """What decides, the first before the next; the last always does."""
    for check in checks:
        if check.verdict is Verdict.FAIL:
            yield Verdict.FAIL, check.metric, check.message
    if not _has_enough(sums, needs):
        missing = max(needs.requests, 1) - sums.n_compared
        failed = f", {_failed_text(sums)}" if sums.n_failed else ""
        message = (
            f"{sums.n_compared:,} of {needs.requests:,} answers are compared{failed}; needs "
            f"{missing:,} more"
        )
        yield Verdict.INCONCLUSIVE, "answers", message
    for check in checks:
        if _holds(check):
            yield Verdict.INCONCLUSIVE, check.metric, check.message
    alike = "" if math.isnan(sums.overlap) else f", mean overlap {sums.overlap:.2f}"
    message = f"{sums.n_compared:,} answers are compared{alike}, {_failed_text(sums)}"
    yield Verdict.PASS, "answers", message


def _failures(sums: ShadowSums, alpha: float) -> ShadowCheck:
    if not 0 <= sums.n_failed <= sums.n or sums.n == 0:
        message = f"failed: {sums.n_failed:,} of {sums.n:,} copies; needs copies"
        return _unknown("failed_share", MAX_FAILED_SHARE, message)
    low, high = (float(end) for end in rate_interval(sums.n_failed, sums.n, alpha))
    share = sums.n_failed / sums.n
    verdict = _verdict(share > MAX_FAILED_SHARE, low > MAX_FAILED_SHARE)
    message = (
        f"failed_share: {_failed_text(sums)} where live answered, {share:.2%} with interval "
        f"[{low:.2%}, {high:.2%}], allowed {MAX_FAILED_SHARE:.0%}"
    )
    return ShadowCheck(
        "failed_share",
        verdict,
        0.0,
        share,
        low,
        high,
        MAX_FAILED_SHARE,
        message + _more(verdict),
    )


def _degraded(sums: ShadowSums, alpha: float) -> ShadowCheck:
    n_degraded, n, limit = sums.n_degraded, sums.n, MAX_DEGRADED_SHARE
    if not 0 <= n_degraded <= n or n == 0:
        message = f"degraded: {n_degraded:,} of {n:,} copies; needs copies"
        return _unknown("degraded_share", limit, message)
    low, high = (float(end) for end in rate_interval(n_degraded, n, alpha))
    share = n_degraded / n
    # Whatever degrades live answers too, an absent feature store say, is not the bundle's fault.
    verdict = Verdict.INCONCLUSIVE if share > limit else Verdict.PASS
    message = (
        f"degraded_share: {n_degraded:,} of {n:,} copies lacked a stage, {share:.2%} with "
        f"interval [{low:.2%}, {high:.2%}], allowed {limit:.0%}"
    )
    message += _more(verdict)
    return ShadowCheck("degraded_share", verdict, None, share, low, high, limit, message)


def _latency(sums: ShadowSums, metric: str, share: float, alpha: float) -> ShadowCheck:
    live_ms = sums.live_latency.quantile_ms(share)
    shadow_ms = sums.shadow_latency.quantile_ms(share)
    if not (math.isfinite(live_ms) and math.isfinite(shadow_ms)):
        message = f"{metric}: no latency is known; needs answers of both bundles"
        return _unknown(metric, MAX_LATENCY_RATIO, message)
    first, second, edges_ms = below_edges(sums.live_latency.counts, sums.shadow_latency.counts)
    bounds = [quantile_interval(below, edges_ms, share, alpha / 2) for below in (first, second)]
    low, high = (float(end) + 1 for end in quantile_ratio(*bounds))
    ratio = shadow_ms / live_ms
    verdict = _verdict(ratio > MAX_LATENCY_RATIO, low > MAX_LATENCY_RATIO)
    message = (
        f"{metric}: shadow {shadow_ms:,.4g} against live {live_ms:,.4g}, {ratio:.2f} times with "
        f"interval [{low:.2f}, {high:.2f}], allowed {MAX_LATENCY_RATIO:g}; n = "
        f"{sums.shadow_latency.n:,}"
    )
    return ShadowCheck(
        metric,
        verdict,
        live_ms,
        shadow_ms,
        _known(low),
        _known(high),
        MAX_LATENCY_RATIO,
        message + _more(verdict),
    )


def _overlap(sums: ShadowSums, floor: float, alpha: float) -> ShadowCheck:
    """A mean of numbers of 0-1: the bound of a rate holds for it as well, and is no narrower."""
    mean, n = sums.overlap, sums.n_compared
    if not (0.0 <= mean <= 1.0 and n > 0):
        message = f"overlap: not known of {n:,} compared answers; needs slates of both bundles"
        return _unknown("overlap", floor, message)
    low, high = (float(end) for end in rate_interval(np.float64(mean * n), n, alpha))
    verdict = _verdict(mean < floor, high < floor)
    message = (
        f"overlap: {mean:.3f} with interval [{low:.3f}, {high:.3f}], at least {floor:g} is wanted; "
        f"n = {n:,}"
    )
    return ShadowCheck("overlap", verdict, 1.0, mean, low, high, floor, message + _more(verdict))


def _verdict(is_beyond: bool, is_certain: bool) -> Verdict:
    if is_certain:
        return Verdict.FAIL
    return Verdict.INCONCLUSIVE if is_beyond else Verdict.PASS


def _more(verdict: Verdict) -> str:
    return "; needs more answers to tell" if verdict is Verdict.INCONCLUSIVE else ""


def _unknown(metric: str, limit: float, message: str) -> ShadowCheck:
    return ShadowCheck(metric, Verdict.INCONCLUSIVE, None, None, None, None, limit, message)


def _failed_text(sums: ShadowSums) -> str:
    reasons = sorted(sums.reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:_MOST_REASONS]
    why = ", ".join(f"{name or 'no reason'} {n:,}" for name, n in reasons)
    return f"{sums.n_failed:,} of {sums.n:,} copies failed{f' ({why})' if why else ''}"


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
