"""Predicted and realised lift of past rollouts, from manifests and evidence.

What was predicted was stored in a bundle's manifest before anybody saw its slates; what was
realised is counted by the evidence. Reads both; writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from recsys.bundles.bundle import Manifest
from recsys.off_policy.lift_calibration import Lift, LiftPair, relative_lift
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import UserColumns
from train_app.evaluation.evaluation_table import HR, NDCG
from train_app.following.evidence.evidence_report import Z_95, Ratio, ratio_by_user

DAY_MS = 86_400_000
BEFORE_DAYS, AFTER_DAYS = 7, 14
"""Evidence is read from so many days around a bundle's publication."""
CANARY, STABLE, BASELINE = "canary", "stable", "baseline"
RATE = "engaged slates per slate"


def past_rollouts(manifests: list[Manifest], evidence: EvidenceReader) -> list[LiftPair]:
    """Every bundle of which there is both a prediction and evidence, oldest first.

    Raises:
        StoreError: the evidence cannot be read.
    """
    pairs = []
    for manifest in reversed(manifests):
        against_id = manifest.lineage.get("stable")
        predicted = predicted_lift(manifest.metrics)
        if not isinstance(against_id, str) or predicted is None:
            continue
        created_ms = int(datetime.fromisoformat(manifest.created_at).timestamp() * 1000)
        users = evidence.per_user(
            [manifest.bundle_id, against_id],
            created_ms - BEFORE_DAYS * DAY_MS,
            created_ms + AFTER_DAYS * DAY_MS,
        )
        realised = realised_lift(users, manifest.bundle_id, against_id)
        if realised is not None:
            pairs.append(LiftPair(manifest.bundle_id, against_id, *predicted, *realised))
    return pairs


def predicted_lift(metrics: Mapping[str, Any]) -> tuple[Lift, str] | None:
    """The lift a manifest promises, and by what.

    The gate's difference of the page's metric to the stable bundle's, as a share of it.
    """
    gate = metrics.get("gate")
    difference = gate.get("versus_stable") if isinstance(gate, Mapping) else None
    if not isinstance(gate, Mapping) or not isinstance(difference, Mapping):
        return None
    stable = _stable_figure(metrics, str(gate.get("metric")))
    if stable is None:
        return None
    bounds = (difference["mean"], difference["low"], difference["high"])
    value, low, high = (float(bound) / stable for bound in bounds)
    return Lift(value, low, high), f"gate, {gate['metric']}"


def _stable_figure(metrics: Mapping[str, Any], name: str) -> float | None:
    """The stable bundle's figure of the gate's metric, above 0."""
    methods = metrics.get("methods")
    figures = methods.get("stable page") if isinstance(methods, Mapping) else None
    column = NDCG if name.startswith("ndcg") else HR
    figure = figures.get(column) if isinstance(figures, Mapping) else None
    value = figure.get("mean") if isinstance(figure, Mapping) else figure
    return float(value) if isinstance(value, int | float) and value > 0.0 else None


def realised_lift(users: UserColumns, bundle_id: str, against_id: str) -> tuple[Lift, str] | None:
    """The lift in engaged slates per slate; None where one of the two served nobody.

    Its canary is compared with users who had the other bundle at the same time. Where it never was
    a canary, its users are compared with those that the other bundle served, before it or not.
    """
    new = _rate(users, bundle_id, CANARY)
    old = _rate(users, against_id, BASELINE) or _rate(users, against_id, STABLE)
    how = "canary"
    if new is None:
        new, old = _rate(users, bundle_id, STABLE), _rate(users, against_id, STABLE)
        how = "before and after"
    if new is None or old is None:
        return None
    lift = relative_lift(new[0], new[1], old[0], old[1], Z_95)
    return None if lift is None else (lift, f"{how}, {RATE}")


def _rate(users: UserColumns, bundle_id: str, variant: str) -> tuple[float, float] | None:
    """Engaged slates per slate of an arm, and its standard error (NaN for few users)."""
    arms = [arm for arm in users.arms if arm[:2] == (bundle_id, variant)]
    mine = np.zeros(len(users), np.bool_)
    for arm in arms:
        mine |= users.of_arm(arm)
    if not mine.any():
        return None
    ratio = ratio_by_user(users.sums["engaged_slates"][mine], users.sums["slates"][mine])
    return None if ratio.value is None else (ratio.value, _error(ratio))


def _error(ratio: Ratio) -> float:
    if ratio.value is None or ratio.high is None:
        return float("nan")
    return (ratio.high - ratio.value) / Z_95
