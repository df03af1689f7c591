"""A shadow's sums as JSON and back, as a rollout's recorded turns keep them. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recsys.stores.evidence.evidence_sums import LatencyHistogram, ShadowSums


def shadow_sums_to_json(sums: ShadowSums) -> dict[str, Any]:
    """The sums as JSON, as a recorded turn keeps them."""
    return {
        "n": sums.n,
        "n_failed": sums.n_failed,
        "n_degraded": sums.n_degraded,
        "n_compared": sums.n_compared,
        "overlap": _known(sums.overlap),
        "rbo": _known(sums.rbo),
        "live_latency": _buckets(sums.live_latency),
        "shadow_latency": _buckets(sums.shadow_latency),
        "reasons": dict(sums.reasons),
        "n_same_order": sums.n_same_order,
    }


def shadow_sums_from_json(document: Mapping[str, Any]) -> ShadowSums:
    """The sums of `shadow_sums_to_json`; what is null is NaN."""
    return ShadowSums(
        n=int(document["n"]),
        n_failed=int(document["n_failed"]),
        n_degraded=int(document["n_degraded"]),
        n_compared=int(document["n_compared"]),
        overlap=_number(document["overlap"]),
        rbo=_number(document["rbo"]),
        live_latency=_histogram(document["live_latency"]),
        shadow_latency=_histogram(document["shadow_latency"]),
        reasons={str(name): int(n) for name, n in document["reasons"].items()},
        n_same_order=int(document["n_same_order"]),
    )


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _buckets(histogram: LatencyHistogram) -> list[list[int]]:
    return [[bucket, n] for bucket, n in sorted(histogram.counts.items())]


def _histogram(buckets: list[list[int]]) -> LatencyHistogram:
    return LatencyHistogram({int(bucket): int(n) for bucket, n in buckets})
