"""Makes a composed bundle: the base's files, another's scorer or ordering, golden answers anew.

Whether the parts fit is `recsys.bundles.composition`'s word; what is written goes through
`train_app.publish`, the only writer of bundles. What a scorer of another training brings along is
`carried_space`'s.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from recsys.bundles.bundle import Manifest
from recsys.bundles.composition import (
    SETTINGS_FILE,
    CompositionPlan,
    lineage_of,
    plan_composition,
    read_ordering,
    scorer_files,
)
from recsys.bundles.golden import GOLDEN_FILE, read_golden, remake_golden
from recsys.bundles.registry import Registry, bundle_cache, open_registry
from recsys.bundles.registry_directory import unfinished_directory
from recsys.bundles.scorer_space import ScorerSpace
from recsys.settings import Settings
from train_app.command_outcome import Outcome
from train_app.composing.carried_space import write_scorer_space
from train_app.publish import BundleDraft, code_revision, publish_bundle, write_bundle_manifest


def compose(settings: Settings, *, base: str, scorer: str | None, ordering: str | None) -> Outcome:
    """`compose`: check, make and publish; a composition that is there already is only named."""
    registry = open_registry(settings)
    plan = plan_composition(registry, base, scorer, ordering)
    bundle_id, is_new = plan.existing, False
    if bundle_id is None:
        manifest = publish_composition(plan, registry, settings, lambda: datetime.now(UTC))
        bundle_id, is_new = manifest.bundle_id, True
    document = {
        "bundle_id": bundle_id,
        "is_new": is_new,
        "base": plan.base.bundle_id,
        "scorer": plan.scorer.bundle_id,
        "ordering": plan.ordering.bundle_id,
        "carries_space": plan.carries_space,
        "n_estimated": plan.n_estimated,
    }
    said = "published" if is_new else "is there already:"
    return Outcome(
        document,
        f"{said} {bundle_id}: retrieval of {plan.origins.retrieval}, scorer of "
        f"{plan.origins.scorer}, ordering of {plan.origins.ordering}",
    )


def publish_composition(
    plan: CompositionPlan, registry: Registry, settings: Settings, now: Callable[[], datetime]
) -> Manifest:
    """Make the bundle of a plan and add it to the registry, whole or not at all.

    Raises:
        BundleError: a part is damaged, or its answers cannot be served.
        StoreError: there is no room for it, or the registry cannot be written.
    """
    cache = bundle_cache(settings)
    base_dir = registry.fetch(plan.base.bundle_id, cache)
    scorer_dir = registry.fetch(plan.scorer.bundle_id, cache)
    policy = read_ordering(registry, plan.ordering)
    with unfinished_directory(settings.data_dir / "composing", plan.base.bundle_id) as folder:
        for name in plan.base.files.keys() - {GOLDEN_FILE, SETTINGS_FILE} - scorer_files(plan.base):
            _copy(base_dir, folder, name)
        scorer_space = _put_scorer(plan, scorer_dir, folder)
        composed = json.loads((base_dir / SETTINGS_FILE).read_text(encoding="utf-8"))
        composed["ordering"] = policy.model_dump(mode="json")
        (folder / SETTINGS_FILE).write_text(json.dumps(composed, indent=1) + "\n")
        draft = _draft(plan)
        followed = settings.model_copy(update={"ordering": policy})
        remake_golden(folder, draft, followed, read_golden(base_dir))
        write_bundle_manifest(
            folder,
            draft,
            lineage=lineage_of(plan, code_revision()),
            # What its parents measured is not what it would measure.
            metrics={},
            parents=plan.parents,
            now=now(),
            scorer_space=scorer_space,
        )
        return publish_bundle(folder, registry)


def _put_scorer(plan: CompositionPlan, scorer_dir: Path, folder: Path) -> ScorerSpace | None:
    """Put the scorer into the bundle, with its towers where it reads other vectors than the base's.

    One that the base has stays as it is there, in the base's rows.
    """
    if plan.carries_space:
        return write_scorer_space(folder, scorer_dir)
    for name in scorer_files(plan.scorer):
        _copy(scorer_dir, folder, name)
    return plan.scorer.scorer_space


def _draft(plan: CompositionPlan) -> BundleDraft:
    base = plan.base
    return BundleDraft(
        space_fingerprint=base.space_fingerprint,
        feature_schema=base.feature_schema,
        feature_schema_hash=base.feature_schema_hash,
        actions=plan.scorer.actions,
        n_items=base.n_items,
        n_shards=base.n_shards,
        embedding_dim=base.embedding_dim,
    )


def _copy(source: Path, target: Path, name: str) -> None:
    (target / name).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source / name, target / name)
