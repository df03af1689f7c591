"""Which part of one bundle may stand in another, and where the parts of a bundle came from.

Decides on manifests and two small files; reads no model. A composed bundle is written by
`train_app.composing`, and its `lineage.composed` is what `origins_of` reads.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any

from pydantic import ValidationError

from recsys.bundles.bundle import Manifest
from recsys.bundles.item_table import ITEMS_FILE, read_item_ids
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt, BundleError, ConfigError, SpaceMismatch
from recsys.settings import OrderingSettings

COMPOSED = "composed"
"""The key of a manifest's lineage that says which bundle each part came from."""
SCORER_FILES = ("scorer.json", "scorer.safetensors")
"""The files a scorer is; those that `recsys.stages` loads, which an operator's process must not."""
SETTINGS_FILE = "settings.json"
TOWERS_FILE = "towers.json"
_MAX_OFFERED = 3


class Part(StrEnum):
    """What a bundle can take from another; the rest is retrieval, which moves as one."""

    SCORER = "scorer"
    ORDERING = "ordering"


@dataclass(frozen=True, slots=True)
class Origins:
    """The bundle that each part was first published with."""

    retrieval: str
    """Towers, item vectors, index and item table."""
    scorer: str
    ordering: str


@dataclass(frozen=True, slots=True)
class Misfit:
    """One thing in which two bundles differ and must not."""

    what: str
    base: str
    part: str


@dataclass(frozen=True, slots=True)
class CompositionPlan:
    """A composition that fits."""

    base: Manifest
    scorer: Manifest
    """The base itself where its own scorer stays."""
    ordering: Manifest
    origins: Origins
    existing: str | None
    """A bundle of the registry that is this composition already."""

    @property
    def parents(self) -> tuple[str, ...]:
        """The bundles it is made of, the base first."""
        parts = (self.base, self.scorer, self.ordering)
        return tuple(dict.fromkeys(manifest.bundle_id for manifest in parts))


def origins_of(manifest: Manifest) -> Origins:
    """Where its parts came from: itself, unless it was composed.

    Raises:
        BundleCorrupt: its lineage names no such three bundles.
    """
    composed = manifest.lineage.get(COMPOSED)
    if composed is None:
        return Origins(manifest.bundle_id, manifest.bundle_id, manifest.bundle_id)
    try:
        return Origins(**{str(key): str(value) for key, value in composed.items()})
    except (TypeError, AttributeError) as error:
        raise BundleCorrupt(
            f"lineage.{COMPOSED} of bundle {manifest.bundle_id} is {composed!r}, expected the "
            f"bundles of {', '.join(asdict(Origins('', '', '')))}; compose it again"
        ) from error


def is_composed(manifest: Manifest) -> bool:
    """Whether parts of it came from other bundles."""
    return COMPOSED in manifest.lineage


def scorer_misfits(base: Manifest, donor: Manifest) -> tuple[Misfit, ...]:
    """What keeps the donor's scorer from reading the base's vectors, as far as manifests tell.

    A scorer reads user and item vectors, which must be of the space it was trained in, histories
    in the kinds of its schema, and popularity by row; it answers one number per action.
    """
    pairs = (
        ("embedding space", base.space_fingerprint[:12], donor.space_fingerprint[:12]),
        ("feature schema", base.feature_schema_hash, donor.feature_schema_hash),
        ("actions", ", ".join(base.actions), ", ".join(donor.actions)),
        ("number of items", str(base.n_items), str(donor.n_items)),
        ("embedding width", str(base.embedding_dim), str(donor.embedding_dim)),
    )
    return tuple(Misfit(*pair) for pair in pairs if pair[1] != pair[2])


def misfits(registry: Registry, base: Manifest, donor: Manifest, part: Part) -> tuple[Misfit, ...]:
    """What keeps the donor's part out of the base; none if it fits.

    Raises:
        BundleCorrupt: a file that decides it is not the published one.
    """
    if part is Part.ORDERING:
        # The policy reads utilities, codes and directions, which every bundle has.
        read_ordering(registry, donor)
        return ()
    found = scorer_misfits(base, donor)
    # Two files stand outside the fingerprint of the space and decide what it means all the same.
    if found or not {TOWERS_FILE, ITEMS_FILE} <= base.files.keys() & donor.files.keys():
        return found
    if _differ(registry, base, donor, TOWERS_FILE, json.loads):
        found += (Misfit("shape of the towers (towers.json)", base.bundle_id, donor.bundle_id),)
    if _differ(registry, base, donor, ITEMS_FILE, read_item_ids):
        found += (Misfit("items by row (items.parquet)", base.bundle_id, donor.bundle_id),)
    return found


def has_same_part(registry: Registry, one: Manifest, other: Manifest, part: Part) -> bool:
    """Whether both have the very same scorer files, or ordering settings."""
    if part is Part.ORDERING:
        return read_ordering(registry, one) == read_ordering(registry, other)
    files = [[m.files[name] for name in SCORER_FILES if name in m.files] for m in (one, other)]
    return files[0] == files[1]


def read_ordering(registry: Registry, manifest: Manifest) -> OrderingSettings:
    """The ordering policy a bundle was published with.

    Raises:
        BundleCorrupt: its settings hold none that this program can follow.
    """
    try:
        document = json.loads(registry.read_file(manifest, SETTINGS_FILE))
        return OrderingSettings.model_validate(document.get("ordering", {}))
    except (ValueError, AttributeError, ValidationError) as error:
        raise BundleCorrupt(
            f"{SETTINGS_FILE} of bundle {manifest.bundle_id} holds no usable ordering settings: "
            f"{error}; take the policy of another bundle"
        ) from error


def plan_composition(
    registry: Registry, base_id: str, scorer_id: str | None, ordering_id: str | None
) -> CompositionPlan:
    """Check that the parts fit the base.

    Raises:
        ConfigError: nothing would be taken, or nothing would change.
        BundleNotFound: one of the bundles is not in the registry.
        BundleError: a part does not fit; the message names what differs and what would fit.
    """
    asked = {Part.SCORER: scorer_id, Part.ORDERING: ordering_id}
    if not any(asked.values()):
        raise ConfigError(
            f"nothing to take into {base_id}, expected a scorer or an ordering policy; "
            "name --scorer BUNDLE or --ordering BUNDLE"
        )
    base = registry.manifest(base_id)
    donors = {part: registry.manifest(name) if name else base for part, name in asked.items()}
    for part, donor in donors.items():
        if asked[part] is not None:
            check_fit(registry, base, donor, part)
    if all(has_same_part(registry, base, donor, part) for part, donor in donors.items()):
        raise ConfigError(
            f"{' and '.join(part for part, name in asked.items() if name)} of "
            f"{', '.join(dict.fromkeys(name for name in asked.values() if name))} is what "
            f"{base_id} has already, expected another; see 'cluster bundle diff'"
        )
    origins = replace(
        origins_of(base),
        scorer=origins_of(donors[Part.SCORER]).scorer,
        ordering=origins_of(donors[Part.ORDERING]).ordering,
    )
    existing = _made_of(registry.list_bundles(), origins)
    return CompositionPlan(base, donors[Part.SCORER], donors[Part.ORDERING], origins, existing)


def check_fit(registry: Registry, base: Manifest, donor: Manifest, part: Part) -> None:
    """Refuse a part that does not fit.

    Raises:
        SpaceMismatch: the scorer is of another embedding space.
        BundleError: something else differs.
    """
    found = misfits(registry, base, donor, part)
    if not found:
        return
    kind = SpaceMismatch if base.space_fingerprint != donor.space_fingerprint else BundleError
    what = "; ".join(f"{m.what}: {m.base} here, {m.part} there" for m in found)
    raise kind(
        f"{part} of {donor.bundle_id} does not fit {base.bundle_id}: {what}; "
        f"{_offer(registry, base, registry.list_bundles())}"
    )


def fitting(registry: Registry, base: Manifest, manifests: Iterable[Manifest]) -> list[str]:
    """Bundles with another scorer that fits the base, in the order given."""
    return [
        donor.bundle_id
        for donor in manifests
        if donor.bundle_id != base.bundle_id
        and not scorer_misfits(base, donor)
        and not has_same_part(registry, base, donor, Part.SCORER)
        and not misfits(registry, base, donor, Part.SCORER)
    ]


def _made_of(manifests: Iterable[Manifest], origins: Origins) -> str | None:
    """The newest bundle of these parts; a bundle that was never composed is made of its own."""
    for manifest in manifests:
        with suppress(BundleCorrupt):
            if origins_of(manifest) == origins:
                return manifest.bundle_id
    return None


def _offer(registry: Registry, base: Manifest, manifests: Iterable[Manifest]) -> str:
    names = fitting(registry, base, manifests)
    if not names:
        return (
            "no scorer of the registry was trained on these towers; roll out the other bundle "
            "whole with 'cluster canary start'"
        )
    more = f" and {len(names) - _MAX_OFFERED} more" if len(names) > _MAX_OFFERED else ""
    return f"the scorers of {', '.join(names[:_MAX_OFFERED])}{more} fit"


def _differ(
    registry: Registry,
    base: Manifest,
    donor: Manifest,
    name: str,
    meaning: Callable[[bytes], object],
) -> bool:
    """Whether a file means something else in the two; equal bytes need no reading."""
    if base.files[name] == donor.files[name]:
        return False
    try:
        return meaning(registry.read_file(base, name)) != meaning(registry.read_file(donor, name))
    except ValueError as error:
        raise BundleCorrupt(
            f"{name} of {base.bundle_id} or {donor.bundle_id} cannot be read: {error}"
        ) from error


def lineage_of(plan: CompositionPlan, code_revision: str | None) -> Mapping[str, Any]:
    """The lineage of a composed bundle: the base's, and what the parts bring.

    `train_until_ms` is the latest of the parts', and left out where one does not say: what a
    scorer has seen, the composed bundle has seen.
    """
    own = {key: value for key, value in plan.base.lineage.items() if key != "parts"}
    lineage: dict[str, Any] = {
        **own,
        "code_revision": code_revision,
        COMPOSED: asdict(plan.origins),
    }
    if plan.scorer.bundle_id != plan.base.bundle_id:
        theirs = {key: value for key, value in plan.scorer.lineage.items() if key != "parts"}
        lineage["parts"] = {str(Part.SCORER): theirs}
    seen = [m.lineage.get("train_until_ms") for m in (plan.base, plan.scorer)]
    lineage.pop("train_until_ms", None)
    known = [moment for moment in seen if isinstance(moment, int)]
    if len(known) == len(seen):
        lineage["train_until_ms"] = max(known)
    return lineage
