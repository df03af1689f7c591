"""The verb `off-policy`: what another ordering, or another bundle, would have earned per slate.

Reads lake, registry and evidence; writes nothing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from recsys.bundles.registry import Registry, bundle_cache, open_registry
from recsys.errors import BundleCorrupt, BundleError, DataRefused
from recsys.off_policy.lift_calibration import LiftPair
from recsys.off_policy.ratio_estimate import Estimate
from recsys.settings import OrderingSettings, Settings
from recsys.stores.evidence.evidence import EvidenceReader
from train_app.command_outcome import Outcome
from train_app.lake.archiving.ingest import run_ingest
from train_app.off_policy.logged_slates import LoggedSlates, read_logged_slates
from train_app.off_policy.off_policy_report import OffPolicyReport
from train_app.off_policy.policy_value import PolicyValue, on_policy_value, ordering_value
from train_app.off_policy.rollout_lifts import past_rollouts

SETTINGS_FILE = "settings.json"
PRESENT = "present ordering settings"


def run_off_policy(
    settings: Settings,
    *,
    bundle_id: str | None = None,
    since_ms: int | None = None,
    until_ms: int | None = None,
    kind: str | None = None,
    positions: int | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Outcome:
    """`off-policy`: values of target policies with intervals, or why the log cannot tell.

    Args:
        bundle_id: the bundle to evaluate; without one the bundles of the log with the present
            `ordering.*` settings.
        since_ms: only slates shown at or after this.
        until_ms: nothing of this moment or later.
        kind: what counts as a reward; without one all kinds by their weights.
        positions: only the first so many positions of each slate; fewer need less support.

    Raises:
        DataRefused: the log has no slate to evaluate with.
        BundleError: there is no such bundle, or it cannot be read.
        StoreError: the lake or the evidence cannot be read.
    """
    run_ingest(settings)
    registry = open_registry(settings)
    if bundle_id is not None:
        registry.manifest(bundle_id)
    slates = read_logged_slates(
        settings, now_ms=now_ms(), since_ms=since_ms or 0, until_ms=until_ms, kind=kind
    )
    slates, orderings, notes = _with_orderings(slates, registry, settings)
    slates = slates if positions is None else slates.head(positions)
    _refuse_nothing(slates, settings)
    asked = _asked_value(settings, slates, orderings, bundle_id, now_ms())
    report = OffPolicyReport(
        reward=kind or "worth of engagements",
        n_slates=len(slates),
        n_users=len(np.unique(slates.users)),
        on_policy=on_policy_value(slates),
        by_bundle=_by_bundle(slates),
        values=[asked, *_variations(slates, orderings)],
        rollouts=_rollouts(settings, registry),
        left_out=slates.left_out,
        notes=notes,
    )
    return Outcome(report.as_dict(), report.text(), asked.refusal)


def _asked_value(
    settings: Settings,
    slates: LoggedSlates,
    orderings: Mapping[str, OrderingSettings],
    bundle_id: str | None,
    now_ms: int,
) -> PolicyValue:
    if bundle_id is None:
        return ordering_value(PRESENT, slates, orderings, settings.ordering.model_dump())
    from train_app.off_policy.rescoring import bundle_value

    directory = open_registry(settings).fetch(bundle_id, bundle_cache(settings))
    target = (directory, read_ordering(directory))
    return bundle_value(bundle_id, slates, orderings, settings, target, now_ms)


def _variations(
    slates: LoggedSlates, orderings: Mapping[str, OrderingSettings]
) -> list[PolicyValue]:
    """Changes of the ordering that a log may tell of without any model."""
    changes: dict[str, dict[str, Any]] = {
        "exploration 0": {"exploration": 0.0},
        "exploration 0.1": {"exploration": 0.1},
        "exploration 0.2": {"exploration": 0.2},
        "order of score": {"diversity": 0.0},
        "order of score, exploration 0": {"diversity": 0.0, "exploration": 0.0},
    }
    return [ordering_value(name, slates, orderings, change) for name, change in changes.items()]


def _with_orderings(
    slates: LoggedSlates, registry: Registry, settings: Settings
) -> tuple[LoggedSlates, dict[str, OrderingSettings], list[str]]:
    """The slates of bundles whose policy can still be read, those policies, and what is missing."""
    orderings: dict[str, OrderingSettings] = {}
    notes = []
    for number, bundle_id in enumerate(slates.bundle_ids):
        try:
            directory = registry.fetch(bundle_id, bundle_cache(settings))
            orderings[bundle_id] = read_ordering(directory)
        except BundleError as error:
            own = slates.bundles == number
            notes.append(f"{int(own.sum()):,} slates left out: {error}")
    known = [bundle_id in orderings for bundle_id in slates.bundle_ids]
    return slates.of(np.asarray(known, np.bool_)[slates.bundles]), orderings, notes


def read_ordering(bundle_dir: Path) -> OrderingSettings:
    """The ordering policy a bundle was published with.

    Raises:
        BundleCorrupt: its settings cannot be read.
    """
    path = bundle_dir / SETTINGS_FILE
    try:
        return OrderingSettings.model_validate(json.loads(path.read_text()).get("ordering", {}))
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise BundleCorrupt(
            f"{path} holds no usable ordering settings: {error}; publish the bundle again"
        ) from error


def _by_bundle(slates: LoggedSlates) -> dict[str, Estimate]:
    found = {}
    for number, bundle_id in enumerate(slates.bundle_ids):
        own = slates.bundles == number
        if own.any():
            found[bundle_id] = on_policy_value(slates.of(own))
    return found


def _rollouts(settings: Settings, registry: Registry) -> list[LiftPair]:
    reader = EvidenceReader(settings.evidence_url)
    try:
        return past_rollouts(registry.list_bundles(), reader)
    finally:
        reader.close()


def _refuse_nothing(slates: LoggedSlates, settings: Settings) -> None:
    if not len(slates):
        counts = ", ".join(f"{n:,} {name}" for name, n in slates.left_out.items()) or "none at all"
        raise DataRefused(
            f"the lake {settings.lake_location} has no slate to evaluate with (left out: {counts}),"
            " expected slates that were shown at least train.label_window_s ago by bundles of the"
            " registry; serve for a while and run it again"
        )
