"""What serves when a cluster starts: the first stable bundle, or the one there was, made whole.

Works on the control store and the registry alone, while nothing runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cluster.rollouts.deciding.rollout_record import (
    BundleHealth,
    Health,
    Observation,
    Phase,
    Reason,
    Rollout,
)
from cluster.rollouts.deciding.rollout_turn import Turn, Verb, decide
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.storing.control_writer import ControlWriter, Fence, HistoryEntry
from recsys.bundles.bundle import Manifest
from recsys.bundles.registry import Registry, bundle_cache
from recsys.errors import BundleCorrupt, BundleError, FeatureSchemaMismatch
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader, ControlView
from recsys.traffic import STABLE, TrafficPlan

ADOPT = "adopt"
RESTORE = "restore"
_MAX_OFFERED = 8
"""Published bundles looked at for a way back."""


def _silent(line: str) -> None:
    """Take a line of progress that nobody reads."""


def adopt_first(
    registry: Registry,
    writer: ControlWriter,
    settings: Settings,
    now_ms: int,
    report: Callable[[str], None] = _silent,
) -> str | None:
    """The stable bundle to start with: the one there is, restored, or the newest valid one.

    Returns:
        None if nothing is stable and no valid bundle is published.

    Raises:
        BundleError: the stable bundle is damaged; says which earlier one can take its place.
    """
    view = ControlReader(settings.control_url).view()
    if STABLE in view.aliases:
        restore_plan(registry, writer, settings, now_ms, report)
        return ControlReader(settings.control_url).view().aliases[STABLE]
    for manifest in registry.list_bundles():
        problem = problem_of(registry, manifest.bundle_id, settings)
        if problem is None:
            set_stable(writer, settings, manifest.bundle_id, None, now_ms, ADOPT)
            return manifest.bundle_id
        report(f"bundle {manifest.bundle_id} is passed over: {problem}")
    return None


def restore_plan(
    registry: Registry,
    writer: ControlWriter,
    settings: Settings,
    now_ms: int,
    report: Callable[[str], None] = _silent,
) -> None:
    """Make plan and required bundles name only bundles that can be loaded.

    A rollout whose bundle is damaged is aborted; an earlier bundle kept for a way back and
    damaged is let go.

    Raises:
        BundleError: a bundle that must answer is damaged; says which one can take its place.
    """
    writer.forget_replicas()
    _mend_rollout(registry, writer, settings, now_ms, report)
    view = ControlReader(settings.control_url).view()
    stable_id = view.aliases[STABLE]
    if writer.open_rollout() is None and (
        view.plan is None or view.plan.bundle_ids != (stable_id,)
    ):
        epoch = 0 if view.plan is None else view.plan.epoch
        writer.set_plan(TrafficPlan.single(stable_id, epoch + 1, stable_id), epoch)
        view = ControlReader(settings.control_url).view()
    planned = () if view.plan is None else view.plan.bundle_ids
    for bundle_id in planned:
        if problem := problem_of(registry, bundle_id, settings):
            raise BundleCorrupt(
                f"bundle {bundle_id}, which must answer, cannot be loaded: {problem}; "
                + way_back(registry, settings, view, planned)
            )
    keep = list(planned)
    for bundle_id in view.required:
        problem = None if bundle_id in planned else problem_of(registry, bundle_id, settings)
        if problem:
            report(f"bundle {bundle_id} is no longer kept loaded: {problem}")
        elif bundle_id not in keep:
            keep.append(bundle_id)
    if set(keep) != set(view.required):
        writer.set_required(keep, view.required)


def set_stable(
    writer: ControlWriter,
    settings: Settings,
    bundle_id: str,
    instead_of: str | None,
    now_ms: int,
    verb: str,
) -> None:
    """Give all traffic to a bundle while nothing runs; the alias, written last, completes it."""
    view = ControlReader(settings.control_url).view()
    epoch = 0 if view.plan is None else view.plan.epoch
    writer.set_required((bundle_id,), view.required)
    writer.set_plan(TrafficPlan.single(bundle_id, epoch + 1, bundle_id), epoch)
    why = "no bundle was stable" if instead_of is None else f"instead of {instead_of}"
    writer.append_history(HistoryEntry(now_ms, "cluster", verb, bundle_id, why))
    writer.set_alias(STABLE, bundle_id, instead_of)


def check_bundle(registry: Registry, bundle_id: str, settings: Settings) -> Manifest:
    """Prove that replicas under these settings can load the bundle, as far as files tell.

    Raises:
        BundleError: it is missing, damaged, or does not fit; the message names what.
    """
    from recsys.features import FeatureSchema

    manifest = registry.manifest(bundle_id)
    registry.fetch(bundle_id, bundle_cache(settings))
    n_shards = settings.retrieval.n_shards
    if manifest.n_shards != n_shards:
        raise BundleError(
            f"bundle {bundle_id} has {manifest.n_shards} index shards, the setting "
            f"retrieval.n_shards is {n_shards}; train a bundle with the present settings, or start "
            f"the cluster with {manifest.n_shards}"
        )
    found = FeatureSchema.from_json(manifest.feature_schema).hash
    if found != manifest.feature_schema_hash:
        raise FeatureSchemaMismatch(
            f"feature schema of bundle {bundle_id} hashes to {found}, its manifest says "
            f"{manifest.feature_schema_hash}; publish the bundle again"
        )
    return manifest


def problem_of(registry: Registry, bundle_id: str, settings: Settings) -> str | None:
    """Why the bundle cannot be loaded, or None if it can."""
    try:
        check_bundle(registry, bundle_id, settings)
    except BundleError as error:
        return str(error)
    return None


def way_back(
    registry: Registry, settings: Settings, view: ControlView, damaged: Iterable[str]
) -> str:
    """The sentence that names bundles that could be stable instead; resident ones first."""
    published = [manifest.bundle_id for manifest in registry.list_bundles()[:_MAX_OFFERED]]
    candidates = dict.fromkeys((*view.required, *published))
    valid = [
        bundle_id
        for bundle_id in candidates
        if bundle_id not in set(damaged) and problem_of(registry, bundle_id, settings) is None
    ]
    if not valid:
        return "no other valid bundle is published; run 'cluster train --publish'"
    others = f" (also valid: {', '.join(valid[1:4])})" if valid[1:] else ""
    return f"run 'cluster canary undo --to {valid[0]}'{others}"


def _mend_rollout(
    registry: Registry,
    writer: ControlWriter,
    settings: Settings,
    now_ms: int,
    report: Callable[[str], None],
) -> None:
    """Finish what a killed operator had decided, and abort a rollout whose bundle is damaged."""
    stored = writer.open_rollout()
    if stored is None:
        return
    rollout = stored.rollout
    problem = problem_of(registry, rollout.bundle_id, settings)
    if not rollout.is_finished and problem is not None:
        stable_problem = problem_of(registry, rollout.stable_id, settings)
        health = Health.READY if stable_problem is None else Health.FAILED
        view = ControlReader(settings.control_url).view()
        seen = Observation(
            now_ms=now_ms,
            plan_epoch=0 if view.plan is None else view.plan.epoch,
            candidate=BundleHealth(Health.FAILED, problem),
            stable=BundleHealth(health, stable_problem or ""),
            followed_epoch=None,
        )
        turn = Turn(Verb.ABORT, now_ms, seen, None, Reason.REFUSED, problem)
        rollout = decide(rollout, turn)
        stored = writer.save_rollout(rollout, stored.revision, "cluster", now_ms, turn=turn)
        report(f"rollout {rollout.rollout_id} of {rollout.bundle_id}: {rollout.message}")
    if rollout.is_finished:
        _settle(writer, settings, rollout, stored.revision, now_ms)
    elif rollout.phase is not Phase.PROMOTING or problem is None:
        report(
            f"rollout {rollout.rollout_id} of {rollout.bundle_id} is {rollout.phase}; the "
            "controller goes on with it, 'cluster canary abort' ends it"
        )


def _settle(
    writer: ControlWriter, settings: Settings, rollout: Rollout, revision: int, now_ms: int
) -> None:
    """Carry out the actions of a finished rollout; while nothing runs, none of them waits."""
    operator = Operator("cluster", lambda: time.time_ns() // 1_000_000, time.sleep, _silent)
    control = FleetControl(settings, writer, ControlReader(settings.control_url), operator)
    if control.perform_all(rollout, Fence(rollout.rollout_id, revision)):
        turn = Turn(Verb.SETTLED, now_ms)
        writer.save_rollout(decide(rollout, turn), revision, "cluster", now_ms, turn=turn)
