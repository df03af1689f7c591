"""What `cluster shadow status` shows of a shadow: pure, over its record and its counted answers."""

from __future__ import annotations

import math
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from recsys.stores.evidence.evidence_sums import LatencyHistogram

if TYPE_CHECKING:
    from cluster.shadows.shadow_reading import LiveAnswers
    from recsys.stores.evidence.evidence_sums import ShadowSums

QUANTILES = (("p50", 0.5), ("p99", 0.99))
_MUCH_SLOWER = 1.25
"""Times the live latency from which on a person is told."""
_ALIKE, _STRANGE = 0.8, 0.3
"""Shares of common items from which on two bundles show much the same, below which little."""
_MAX_REASONS = 5


def shadow_document(
    record: ShadowRecord, sums: ShadowSums | None, live: LiveAnswers | None = None
) -> dict[str, Any]:
    """The shadow as a JSON object; a figure that nothing is known of is null."""
    return {
        "shadow": record.to_json(),
        "answers": None if sums is None or not sums.n else _answers(sums),
        "live": None if live is None else asdict(live) | {"left_out_share": live.left_out_share},
        "meaning": meaning(record, sums),
    }


def shadow_text(
    record: ShadowRecord,
    sums: ShadowSums | None,
    live: LiveAnswers | None = None,
    *,
    is_stable: bool = False,
) -> str:
    """The shadow as lines for a person.

    Args:
        live: the answers it could have had copies of.
        is_stable: its bundle became stable meanwhile, so copies compare it with itself.
    """
    by = f"rollout {record.rollout_id}" if record.rollout_id else record.who
    lines = [
        f"shadow {record.shadow_id} of {record.bundle_id}, {record.share:.0%} of the requests, "
        f"by {by}: {record.state}{f' ({record.why})' if record.why else ''}"
    ]
    if sums is not None and sums.n:
        lines += _figures(sums)
        lines += _left_out(live)
    if is_stable and not record.is_closed:
        lines.append(
            f"its bundle is stable now; stop it with 'cluster shadow stop {record.shadow_id}'"
        )
    return "\n".join([*lines, meaning(record, sums)])


def meaning(record: ShadowRecord, sums: ShadowSums | None) -> str:
    """What the figures come to, as a sentence."""
    if sums is None or not sums.n:
        return _no_data(record)
    said = [_failures_said(sums)]
    if sums.n_compared:
        share = sums.overlap
        how = "much the same" if share >= _ALIKE else "other"
        how = "hardly any of the same" if share < _STRANGE else how
        said.append(f"it would show {how} items: {share:.0%} of a live slate is in its own")
    else:
        said.append("no pair of slates could be compared yet")
    slower = _ratio(sums, 0.99)
    if slower is not None:
        is_slow = slower > _MUCH_SLOWER
        said.append(
            f"its slowest answers take {slower:.2f} times as long as the live ones"
            if is_slow
            else "it is about as fast as the live bundle"
        )
    return "; ".join(said) + "; whether users like it more only a canary, or --lift, can tell"


def _answers(sums: ShadowSums) -> dict[str, Any]:
    latency: dict[str, Any] = {}
    for name, share in QUANTILES:
        latency[name] = {
            "live_ms": _known(sums.live_latency.quantile_ms(share)),
            "shadow_ms": _known(sums.shadow_latency.quantile_ms(share)),
            "ratio": _ratio(sums, share),
        }
    return {
        "n": sums.n,
        "n_failed": sums.n_failed,
        "n_degraded": sums.n_degraded,
        "n_compared": sums.n_compared,
        "n_same_order": sums.n_same_order,
        "overlap_at_k": sums.overlap if sums.n_compared else None,
        "rbo": sums.rbo if sums.n_compared else None,
        "latency": latency,
        "reasons": dict(sums.reasons),
    }


def _figures(sums: ShadowSums) -> list[str]:
    lines = [
        f"answers: {sums.n:,}, of them {sums.n_failed:,} failed and {sums.n_degraded:,} degraded; "
        f"{sums.n_compared:,} compared with what the user got"
    ]
    reasons = sorted(sums.reasons.items(), key=lambda item: (-item[1], item[0]))
    lines += [f"  {n:,} x {reason}" for reason, n in reasons[:_MAX_REASONS]]
    if sums.n_compared:
        lines.append(
            f"rank difference: overlap@k {sums.overlap:.3f}, RBO {sums.rbo:.3f} (1: same); "
            f"{sums.n_same_order / sums.n_compared:.1%} are the same slate"
        )
    for name, share in QUANTILES:
        ratio = _ratio(sums, share)
        if ratio is not None:
            lines.append(
                f"latency {name}: live {sums.live_latency.quantile_ms(share):.1f} ms, shadow "
                f"{sums.shadow_latency.quantile_ms(share):.1f} ms, ratio {ratio:.2f}"
            )
    return lines


def _left_out(live: LiveAnswers | None) -> list[str]:
    """What the copies are no sample of."""
    if live is None or live.left_out_share is None:
        return []
    hour = datetime.fromtimestamp(live.since_ms / 1000, UTC)
    return [
        f"left out: {live.n_degraded:,} of {live.n:,} live answers since {hour:%H:%M}Z "
        f"({live.left_out_share:.1%}) lacked a stage and are not copied, nor is what comes while "
        "users wait; --lift counts both"
    ]


def _failures_said(sums: ShadowSums) -> str:
    if not sums.n_failed:
        return f"all {sums.n:,} copies were answered"
    most = max(sums.reasons, key=lambda reason: sums.reasons[reason], default="")
    why = f", mostly '{most}'" if most else ""
    return f"{sums.n_failed / sums.n:.1%} of {sums.n:,} copies failed{why}"


def _no_data(record: ShadowRecord) -> str:
    match record.state:
        case ShadowState.PREPARING:
            return (
                "no data: its replicas still load the bundle; go on with "
                f"'cluster shadow start {record.bundle_id}'"
            )
        case ShadowState.RUNNING:
            return (
                "no data yet: no copy was answered and counted; send requests, and see "
                "application 'workers' in 'cluster status'"
            )
        case _:
            return "no data: it was stopped before a copy was answered and counted"


def _ratio(sums: ShadowSums, share: float) -> float | None:
    live, shadow = _of(sums.live_latency, share), _of(sums.shadow_latency, share)
    return None if live is None or shadow is None or live <= 0.0 else shadow / live


def _of(histogram: LatencyHistogram, share: float) -> float | None:
    return _known(histogram.quantile_ms(share))


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None
