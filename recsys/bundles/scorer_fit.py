"""Whether the scorer of one bundle can score what another retrieves, and with whose towers.

Decides on manifests and the item tables; reads no model. A scorer that was trained on other towers
brings them along, so what must agree is what both read of a user and which items there are.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass

from recsys.bundles.bundle import Manifest
from recsys.bundles.item_table import ITEMS_FILE, read_item_ids
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt

TOWERS_FILE = "towers.json"
MAX_UNKNOWN_SHARE = 0.2
"""Of the base's items, that the scorer's towers may not know: an estimated vector is a guess, and a
page that is mostly guesses says nothing of the scorer."""


@dataclass(frozen=True, slots=True)
class Misfit:
    """One thing in which two bundles differ and must not."""

    what: str
    base: str
    part: str


@dataclass(frozen=True, slots=True)
class ScorerFit:
    """How a scorer would stand in a bundle."""

    misfits: tuple[Misfit, ...] = ()
    """Empty if it can."""
    carries_space: bool = False
    """Whether it needs its own towers, because it was not trained on the base's."""
    n_unknown: int = 0
    """Items of the base that its towers do not know."""


def reading_misfits(base: Manifest, donor: Manifest) -> tuple[Misfit, ...]:
    """What keeps a scorer out wherever its towers are, as far as manifests tell.

    It reads histories in the kinds of its schema, and answers one number per action.
    """
    pairs = (
        ("feature schema", base.feature_schema_hash, donor.feature_schema_hash),
        ("actions", ", ".join(base.actions), ", ".join(donor.actions)),
    )
    return tuple(Misfit(*pair) for pair in pairs if pair[1] != pair[2])


def scorer_fit(registry: Registry, base: Manifest, donor: Manifest) -> ScorerFit:
    """Whether the donor's scorer fits, and what it must bring along.

    Args:
        donor: a bundle whose scorer reads its own towers.

    Raises:
        BundleCorrupt: a file that decides it is not the published one.
    """
    found = reading_misfits(base, donor)
    if found:
        return ScorerFit(found)
    if is_of_space(registry, base, donor):
        return ScorerFit()
    theirs = set(item_ids(registry, donor))
    n_unknown = sum(item_id not in theirs for item_id in item_ids(registry, base))
    if n_unknown > MAX_UNKNOWN_SHARE * base.n_items:
        known = f"{base.n_items - n_unknown} of them known"
        return ScorerFit((Misfit("catalogue", f"{base.n_items} items", known),))
    return ScorerFit((), carries_space=True, n_unknown=n_unknown)


def is_of_space(registry: Registry, base: Manifest, donor: Manifest) -> bool:
    """Whether both retrieve with the same towers and the same item in every row.

    Raises:
        BundleCorrupt: a file that decides it is not the published one.
    """
    shapes = [(m.space_fingerprint, m.n_items, m.embedding_dim) for m in (base, donor)]
    if shapes[0] != shapes[1]:
        return False
    # Two files stand outside the fingerprint of the space and decide what it means all the same.
    if not {TOWERS_FILE, ITEMS_FILE} <= base.files.keys() & donor.files.keys():
        return True
    return not (
        _differ(registry, base, donor, TOWERS_FILE, json.loads)
        or _differ(registry, base, donor, ITEMS_FILE, read_item_ids)
    )


def item_ids(registry: Registry, manifest: Manifest) -> list[str]:
    """The item of each row of a bundle.

    Raises:
        BundleCorrupt: its item table is not the published one, or none.
    """
    try:
        return read_item_ids(registry.read_file(manifest, ITEMS_FILE))
    except ValueError as error:
        raise BundleCorrupt(
            f"{ITEMS_FILE} of bundle {manifest.bundle_id} cannot be read: {error}"
        ) from error


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
