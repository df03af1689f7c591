"""Whether a rollout may start, and the record it starts with. Reads stores, changes nothing."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.deciding.rollout_record import Rollout, earlier_stables
from cluster.rollouts.driving.first_stable import check_bundle, way_back
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.bundle import Manifest
from recsys.bundles.registry import Registry
from recsys.errors import BundleError, ConfigError, FeatureSchemaMismatch, FleetError
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from recsys.traffic import STABLE


@dataclass(frozen=True)
class RolloutRequest:
    """What is read to start a rollout, or to find the bundle that an undo leads back to."""

    settings: Settings
    registry: Registry
    writer: ControlWriter
    reader: ControlReader

    def stable_id(self) -> str:
        """The bundle that a rollout would replace.

        Raises:
            FleetError: none is stable yet.
        """
        stable_id = self.reader.view().aliases.get(STABLE)
        if stable_id is None:
            raise FleetError(
                "no bundle is stable yet, expected one to replace; "
                "run 'cluster up --wait', which takes the newest bundle"
            )
        return stable_id

    def previous(self, stable_id: str) -> str:
        """The bundle that was stable before.

        Raises:
            ConfigError: there was none; names bundles that could be it.
        """
        rollouts = [stored.rollout for stored in self.writer.rollouts()]
        earlier = earlier_stables(rollouts, stable_id)
        if not earlier:
            view = self.reader.view()
            raise ConfigError(
                f"no bundle was stable before {stable_id}; name one with 'cluster canary undo "
                f"--to BUNDLE': {way_back(self.registry, self.settings, view, (stable_id,))}"
            )
        return earlier[0]

    def check(self, bundle_id: str, *, is_undo: bool) -> None:
        """Refuse, before anything is changed, a bundle that cannot replace stable.

        Raises:
            ConfigError: it is stable already.
            BundleError: it is missing, damaged, or was trained on another feature schema.
        """
        stable_id = self.stable_id()
        if bundle_id == stable_id:
            raise ConfigError(
                f"bundle {bundle_id} is already stable, expected another one; "
                "see 'cluster bundle list'"
            )
        manifest = check_bundle(self.registry, bundle_id, self.settings)
        if is_undo:
            return  # it was stable under these settings once, and a way back must stay open
        try:
            stable = self.registry.manifest(stable_id)
        except BundleError:
            return  # stable itself is damaged: its replacement must not depend on it
        _check_schema(manifest, stable)

    def new_rollout(
        self, bundle_id: str, plan: RolloutPlan, now_ms: int, *, is_undo: bool
    ) -> Rollout:
        """The record of a rollout that begins now."""
        stable_id = self.stable_id()
        rollouts = [stored.rollout for stored in self.writer.rollouts()]
        required = self.reader.view().required
        resident = [
            name
            for name in earlier_stables(rollouts, stable_id)
            if name in required and name != bundle_id
        ]
        keep = (stable_id, *resident)[: self.settings.serve.keep_resident]
        moment = datetime.fromtimestamp(now_ms / 1000, UTC)
        return Rollout(
            rollout_id=f"r{moment:%Y%m%d-%H%M%S}-{now_ms % 1000:03d}",
            bundle_id=bundle_id,
            stable_id=stable_id,
            plan_name=plan.name,
            steps=plan.shares,
            resident_before=required,
            resident_after=(bundle_id, *keep),
            started_ms=now_ms,
            ready_timeout_ms=self.settings.cluster.ready_timeout_s * 1000,
            since_ms=now_ms,
            is_undo=is_undo,
            plan=plan,
        )


def _check_schema(manifest: Manifest, stable: Manifest) -> None:
    """More kinds of engagement and longer histories are how a bundle grows; the rest must agree.

    Raises:
        FeatureSchemaMismatch: it reads other features of the same events than stable does.
    """
    from recsys.features import FeatureSchema

    found = FeatureSchema.from_json(manifest.feature_schema)
    present = FeatureSchema.from_json(stable.feature_schema)
    lost = [kind for kind in present.kinds if kind not in found.kinds]
    other = [
        f"{name} {mine}, expected {wanted}"
        for name, mine, wanted in (
            ("version", found.version, present.version),
            ("n_content_buckets", found.n_content_buckets, present.n_content_buckets),
        )
        if mine != wanted
    ]
    if lost:
        other.append(f"no kinds {', '.join(lost)}, expected all that stable reads")
    if other:
        raise FeatureSchemaMismatch(
            f"bundle {manifest.bundle_id} was trained on feature schema {found.hash} with "
            f"{' and '.join(other)} (stable {stable.bundle_id} has {present.hash}); train it again "
            "with the present settings on data that has them"
        )
