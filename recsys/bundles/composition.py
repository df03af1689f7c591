"""Which part of one bundle may stand in another, and where the parts of a bundle came from.

Decides on manifests and two small files; reads no model. A composed bundle is written by
`train_app.composing`, and its `lineage.composed` is what `origins_of` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import Any

from pydantic import ValidationError

from recsys.bundles.bundle import Manifest
from recsys.bundles.registry import Registry
from recsys.bundles.scorer_fit import Misfit, ScorerFit, reading_misfits, scorer_fit
from recsys.bundles.scorer_space import of_scorer_space
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound, ConfigError
from recsys.settings import OrderingSettings

COMPOSED = "composed"
"""The key of a manifest's lineage that says which bundle each part came from."""
SCORER_FILES = ("scorer.json", "scorer.safetensors")
"""The files a scorer is; those that `recsys.stages` loads, which an operator's process must not."""
SETTINGS_FILE = "settings.json"
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
class CompositionPlan:
    """A composition that fits."""

    base: Manifest
    scorer: Manifest
    """The base itself where its own scorer stays."""
    ordering: Manifest
    origins: Origins
    existing: str | None
    """A bundle of the registry that is this composition already."""
    carries_space: bool = False
    """Whether the scorer is taken with its own towers, because it was not trained on the base's."""
    n_estimated: int = 0
    """Items whose vectors in the scorer's space are estimated, because its towers know none."""

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


def scorer_source(registry: Registry, donor: Manifest) -> Manifest:
    """The bundle to take a donor's scorer from: one whose scorer reads the bundle's own towers.

    A composition carries the vectors of its own items only, so a scorer that came with a space is
    taken from where it was trained, whoever had it since.

    Raises:
        BundleError: that bundle is not in the registry any more.
    """
    if donor.scorer_space is None:
        return donor
    origin = origins_of(donor).scorer
    try:
        return registry.manifest(origin)
    except BundleNotFound as error:
        raise BundleError(
            f"scorer of {donor.bundle_id} was trained with {origin}, which is not in the registry "
            "any more, expected it there to take the scorer from; name another bundle, or roll "
            f"out {donor.bundle_id} whole with 'cluster canary start'"
        ) from error


def part_fit(registry: Registry, base: Manifest, donor: Manifest, part: Part) -> ScorerFit:
    """Whether the donor's part fits the base, and what it brings along.

    Raises:
        BundleError: a file that decides it is not the published one, or is gone.
    """
    if part is Part.ORDERING:
        # The policy reads utilities, codes and directions, which every bundle has.
        read_ordering(registry, donor)
        return ScorerFit()
    return scorer_fit(registry, base, scorer_source(registry, donor))


def misfits(registry: Registry, base: Manifest, donor: Manifest, part: Part) -> tuple[Misfit, ...]:
    """What keeps the donor's part out of the base; none if it fits. See `part_fit`."""
    return part_fit(registry, base, donor, part).misfits


def has_same_part(registry: Registry, one: Manifest, other: Manifest, part: Part) -> bool:
    """Whether both have the very same scorer, or ordering settings."""
    if part is Part.ORDERING:
        return read_ordering(registry, one) == read_ordering(registry, other)
    with suppress(BundleCorrupt):
        # In the rows of another catalogue the files of one scorer differ.
        if origins_of(one).scorer == origins_of(other).scorer:
            return True
    files = [{name: m.files[name] for name in scorer_files(m)} for m in (one, other)]
    return files[0] == files[1]


def scorer_files(manifest: Manifest) -> frozenset[str]:
    """The files of a bundle that its scorer is, with the towers it brought along."""
    return of_scorer_space(manifest.files) | (manifest.files.keys() & set(SCORER_FILES))


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
    fits = {
        part: check_fit(registry, base, donor, part)
        for part, donor in donors.items()
        if asked[part] is not None
    }
    if scorer_id is not None:
        donors[Part.SCORER] = scorer_source(registry, donors[Part.SCORER])
    scorer = fits.get(Part.SCORER, ScorerFit())
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
    return CompositionPlan(
        base,
        donors[Part.SCORER],
        donors[Part.ORDERING],
        origins,
        existing,
        scorer.carries_space,
        scorer.n_unknown,
    )


def check_fit(registry: Registry, base: Manifest, donor: Manifest, part: Part) -> ScorerFit:
    """How the part fits.

    Raises:
        BundleError: it does not; the message names what differs and what to do.
    """
    fit = part_fit(registry, base, donor, part)
    if not fit.misfits:
        return fit
    what = "; ".join(f"{m.what}: {m.base} here, {m.part} there" for m in fit.misfits)
    raise BundleError(
        f"{part} of {donor.bundle_id} does not fit {base.bundle_id}: {what}; "
        f"{_offer(registry, base, registry.list_bundles())}"
    )


def fitting(registry: Registry, base: Manifest, manifests: Iterable[Manifest]) -> Iterator[str]:
    """Bundles trained with another scorer that fits the base, in the order given.

    Each is read when it is asked for; what cannot be read fits nothing.
    """
    for donor in manifests:
        if donor.bundle_id == base.bundle_id or reading_misfits(base, donor):
            continue
        with suppress(BundleError):
            if (
                origins_of(donor).scorer == donor.bundle_id
                and not has_same_part(registry, base, donor, Part.SCORER)
                and not misfits(registry, base, donor, Part.SCORER)
            ):
                yield donor.bundle_id


def _made_of(manifests: Iterable[Manifest], origins: Origins) -> str | None:
    """The newest bundle of these parts; a bundle that was never composed is made of its own."""
    for manifest in manifests:
        with suppress(BundleCorrupt):
            if origins_of(manifest) == origins:
                return manifest.bundle_id
    return None


def _offer(registry: Registry, base: Manifest, manifests: Iterable[Manifest]) -> str:
    names = list(islice(fitting(registry, base, manifests), _MAX_OFFERED))
    if not names:
        return (
            "no other scorer of the registry fits; train one over this catalogue and feature "
            "schema, or roll out the other bundle whole with 'cluster canary start'"
        )
    return f"scorers that fit: {', '.join(names)}"


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
