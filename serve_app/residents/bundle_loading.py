"""What a replica loads of a bundle, and the checks it must pass before it may answer.

Verified against the registry's checksums, the embedding space, the golden answers, the memory the
node has and the time the stable bundle takes; and run once at the smallest and the largest
batch, so that the first request meets a warm bundle.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from recsys.bundles.bundle import Manifest, read_manifest, space_fingerprint
from recsys.bundles.golden import Golden, check_golden, read_golden, warm_up_batch
from recsys.bundles.item_table import ItemTable
from recsys.bundles.registry import open_registry
from recsys.errors import BundleCorrupt, BundleError, SpaceMismatch
from recsys.features import FeatureSchema
from recsys.settings import OrderingSettings, Settings
from recsys.stages import GATEWAY, SCORER, Stage, load_stage, stage_names
from recsys.types import RowArray
from serve_app.residents.load_checks import (
    METHODS,
    SHARD_METHODS,
    Memory,
    Yardsticks,
    check_room,
    check_towers,
    node_memory,
)

SETTINGS_FILE = "settings.json"


@dataclass(frozen=True, slots=True)
class GatewayBundle:
    """What the gateway itself holds of a bundle: its items and how to read users for it."""

    bundle_id: str
    items: ItemTable
    schema: FeatureSchema
    actions: tuple[str, ...]
    shards: tuple[str, ...]
    fresh_rows: RowArray
    ordering: OrderingSettings
    golden: Golden


@dataclass(frozen=True, slots=True)
class LoadedBundle:
    """All that one replica holds of a bundle; which parts depends on the placement."""

    gateway: GatewayBundle | None
    stages: Mapping[str, Stage]


class BundleLoader:
    """Loads the parts of a bundle that one replica needs.

    Args:
        stages: the stages to load; None for all the bundle has.
        is_gateway: whether the gateway's own part is needed.
        stable_id: the bundle that answers users now, asked at each load: it is the one that others
            are timed against, and never refused for its own time.
        memory: what the node has left, asked before each load.
    """

    def __init__(
        self,
        settings: Settings,
        stages: tuple[str, ...] | None,
        *,
        is_gateway: bool,
        stable_id: Callable[[], str | None] = lambda: None,
        memory: Callable[[], Memory] = node_memory,
    ) -> None:
        self._settings = settings
        self._stages = stages
        self._is_gateway = is_gateway
        self._stable_id = stable_id
        self._memory = memory
        self._registry = open_registry(settings)
        # The thread's own processor time: a loading thread waits for every other one of the node.
        self._yardsticks = Yardsticks(time.thread_time, settings.serve.max_batch)

    def load(self, bundle_id: str) -> LoadedBundle:
        """Fetch, verify, load, check and warm up.

        Raises:
            BundleError: the bundle must not be served; the message says why.
        """
        directory = self._registry.fetch(bundle_id, self._settings.data_dir / "bundle-cache")
        manifest = read_manifest(directory)
        _check_shards(manifest, self._settings)
        settings = with_bundle_ordering(self._settings, directory)
        golden = read_golden(directory)
        names = stage_names(manifest.n_shards) if self._stages is None else self._stages
        parts = (*names, GATEWAY) if self._is_gateway else names
        check_room(manifest, parts, self._memory())
        if SCORER in names:
            _check_space(directory, manifest)
            check_towers(manifest, directory)
        stable_id = self._stable_id()
        beside = None if stable_id == bundle_id else stable_id
        stages: dict[str, Stage] = {}
        for name in names:
            stage = load_stage(name, directory, manifest, settings)
            check_golden(name, stage, golden)
            _warm_up(name, stage, golden, settings.serve.max_batch)
            self._yardsticks.check(
                name, stage, golden, beside, encodes_to_score=manifest.scorer_space is not None
            )
            stages[name] = stage
        gateway = _load_gateway(directory, manifest, settings, golden) if self._is_gateway else None
        for name, stage in stages.items():
            self._yardsticks.keep(bundle_id, name, stage, golden)
        return LoadedBundle(gateway, stages)


def with_bundle_ordering(settings: Settings, directory: Path) -> Settings:
    """The settings with the ordering policy the bundle was published with.

    The policy is part of the bundle, so that a canary can test another one.
    """
    path = directory / SETTINGS_FILE
    try:
        policy = json.loads(path.read_text(encoding="utf-8")).get("ordering", {})
        ordering = OrderingSettings.model_validate(policy)
    except (OSError, ValueError, AttributeError, ValidationError) as error:
        raise BundleCorrupt(f"{path} holds no usable ordering settings: {error}") from error
    return settings.model_copy(update={"ordering": ordering})


def _load_gateway(
    directory: Path, manifest: Manifest, settings: Settings, golden: Golden
) -> GatewayBundle:
    items = ItemTable.read(directory)
    if len(items) != manifest.n_items:
        raise BundleError(
            f"bundle {manifest.bundle_id} has {len(items)} items in its table, its manifest says "
            f"{manifest.n_items}; publish it again"
        )
    return GatewayBundle(
        bundle_id=manifest.bundle_id,
        items=items,
        schema=FeatureSchema.from_json(manifest.feature_schema),
        actions=manifest.actions,
        shards=tuple(name for name in stage_names(manifest.n_shards) if name.startswith("shard")),
        fresh_rows=items.fresh_rows(settings.retrieval.fresh_days),
        ordering=settings.ordering,
        golden=golden,
    )


def _check_shards(manifest: Manifest, settings: Settings) -> None:
    n_deployed = settings.retrieval.n_shards
    if manifest.n_shards != n_deployed:
        raise BundleError(
            f"bundle {manifest.bundle_id} has {manifest.n_shards} index shards, this graph has "
            f"{n_deployed} (retrieval.n_shards); train it again, or restart with its number"
        )


def _check_space(directory: Path, manifest: Manifest) -> None:
    found = space_fingerprint(directory)
    if found != manifest.space_fingerprint:
        raise SpaceMismatch(
            f"towers and vectors of bundle {manifest.bundle_id} are of embedding space "
            f"{found[:12]}, its manifest says {manifest.space_fingerprint[:12]}; compose it again"
        )


def _warm_up(name: str, stage: Stage, golden: Golden, max_batch: int) -> None:
    for method in METHODS.get(name, SHARD_METHODS):
        for n_requests in (1, max_batch):
            stage(method, warm_up_batch(method, golden, n_requests))
