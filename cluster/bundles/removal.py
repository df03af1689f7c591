"""Removes bundles that nothing refers to: what may go is decided here, and what goes is said.

The only one who takes bundles out of the registry. A bundle is hidden, looked up once more, and
only then purged: whoever began to need it in between, a composition of it too, gets it back. A
removal that was killed is finished, or undone, by the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cluster.bundles.references import References
from recsys.bundles.bundle import Manifest
from recsys.bundles.composition import is_composed
from recsys.bundles.registry import Registry
from recsys.errors import BundleError

YOUNG_MS = 3_600_000
"""A bundle published less than this ago may be waiting for its rollout."""
DEFAULT_KEEP = 5


@dataclass(frozen=True, slots=True)
class Shelved:
    """A bundle of the registry as removal sees it."""

    bundle_id: str
    created_ms: int
    """When it was made or became visible, whichever is later."""
    n_bytes: int
    parents: tuple[str, ...]
    is_composed: bool


@dataclass(frozen=True, slots=True)
class Sweep:
    """What a removal did, or would do."""

    removed: tuple[Shelved, ...]
    kept: dict[str, str]
    """Bundle id to why it stays."""
    finished: tuple[str, ...]
    """Bundles whose removal a killed process had begun."""
    broken: dict[str, str]
    """Entries that cannot be read as bundles, with the reason; they are left alone."""

    @property
    def n_bytes(self) -> int:
        """Bytes of the removed bundles' files."""
        return sum(bundle.n_bytes for bundle in self.removed)


def keep_reasons(
    bundles: Sequence[Shelved], references: References, keep: int, now_ms: int
) -> dict[str, str]:
    """Bundle id to why it stays; a bundle that is not named may go.

    Args:
        keep: so many earlier stable bundles and so many of the newest ones stay.
    """
    reasons: dict[str, str] = {}
    newest = sorted(bundles, key=lambda bundle: (bundle.created_ms, bundle.bundle_id))[::-1][:keep]
    reasons.update({bundle.bundle_id: f"one of the newest {keep}" for bundle in newest})
    reasons.update(dict.fromkeys(references.earlier[:keep], "was stable before"))
    # A moment in the future is a clock that goes wrong, which makes no bundle old.
    young = [bundle.bundle_id for bundle in bundles if now_ms - bundle.created_ms < YOUNG_MS]
    reasons.update(dict.fromkeys(young, "younger than an hour"))
    for bundle in bundles:
        reason = references.reason(bundle.bundle_id)
        if reason is not None:
            reasons[bundle.bundle_id] = reason
    composed = [b for b in bundles if b.is_composed and b.bundle_id in reasons]
    for bundle in composed:
        for parent in bundle.parents:
            reasons.setdefault(parent, f"a part of the composed {bundle.bundle_id}")
    return {b.bundle_id: reasons[b.bundle_id] for b in bundles if b.bundle_id in reasons}


def shelved(registry: Registry, manifests: Iterable[Manifest]) -> list[Shelved]:
    """What removal must know of every bundle."""
    return [
        Shelved(
            bundle_id=manifest.bundle_id,
            created_ms=round(
                1000
                * max(
                    datetime.fromisoformat(manifest.created_at).timestamp(),
                    registry.stored_s(manifest.bundle_id) or 0.0,
                )
            ),
            n_bytes=manifest.n_bytes,
            parents=manifest.parents,
            is_composed=is_composed(manifest),
        )
        for manifest in manifests
    ]


def sweep(
    registry: Registry,
    look: Callable[[], References],
    *,
    keep: int,
    clock: Callable[[], int],
    dry_run: bool = False,
    report: Callable[[str, float | None], None] = lambda step, share: None,
) -> Sweep:
    """Remove every bundle that may go.

    Args:
        look: reads the references anew; asked at the start and around every removal.
        clock: Unix time in milliseconds.

    Raises:
        StoreError: control store or registry cannot be used; what was not yet removed is whole.
    """
    references = look()
    finished = () if dry_run else _finish(registry, references)
    manifests, broken = registry.survey()
    known = frozenset(manifest.bundle_id for manifest in manifests)
    bundles = shelved(registry, manifests)
    kept = keep_reasons(bundles, references, keep, clock())
    may_go = sorted(
        (bundle for bundle in bundles if bundle.bundle_id not in kept),
        key=lambda bundle: (bundle.created_ms, bundle.bundle_id),
    )
    removed: list[Shelved] = []
    for n_done, bundle in enumerate(may_go):
        report(f"removing {bundle.bundle_id}", n_done / len(may_go))
        if dry_run:
            removed.append(bundle)
            continue
        reason = _remove(registry, bundle.bundle_id, look, known)
        if reason is None:
            removed.append(bundle)
        else:
            kept[bundle.bundle_id] = reason
    return Sweep(tuple(removed), kept, finished, dict(broken))


def _remove(
    registry: Registry, bundle_id: str, look: Callable[[], References], known: Collection[str]
) -> str | None:
    """Remove one bundle; the reason if it stays or went by another hand.

    Args:
        known: bundles whose parts were looked at before.
    """
    reason = look().reason(bundle_id)
    if reason is not None:
        return reason
    if not registry.hide(bundle_id):
        return "removed by somebody else at the same moment"
    # Whoever composes of it is among the references until its bundle is published.
    reason = look().reason(bundle_id) or _composed_of(registry, bundle_id, known)
    if reason is not None and registry.show(bundle_id):
        return reason
    registry.purge(bundle_id)
    return None


def _composed_of(registry: Registry, bundle_id: str, known: Collection[str]) -> str | None:
    """A composition of the bundle that is not known yet, as a reason to keep it."""
    for manifest in registry.list_bundles():
        is_new = manifest.bundle_id not in known
        if is_new and is_composed(manifest) and bundle_id in manifest.parents:
            return f"a part of the composed {manifest.bundle_id}"
    return None


def _finish(registry: Registry, references: References) -> tuple[str, ...]:
    """Go on with removals that were begun, or bring back what is needed by now."""
    finished = []
    for bundle_id in registry.hidden():
        try:
            reason = references.reason(bundle_id) or _composed_of(registry, bundle_id, ())
            if reason is not None and registry.show(bundle_id):
                continue
            registry.purge(bundle_id)
        except BundleError:
            # Whatever else begins with a dot there is not ours.
            continue
        finished.append(bundle_id)
    return tuple(finished)
