"""What differs between two bundles: files, settings, metrics, lineage, items, fingerprints.

Pure over manifests and the contents of two files; which part would fit the other bundle is
`recsys.bundles.composition`'s word.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from recsys.bundles.bundle import Manifest
from recsys.bundles.composition import SETTINGS_FILE, Part, has_same_part, part_fit
from recsys.bundles.item_table import ITEMS_FILE, ItemFacts, read_item_facts
from recsys.errors import BundleCorrupt, BundleError

if TYPE_CHECKING:
    from recsys.bundles.registry import Registry

_MAX_NAMED = 5
SAME, FITS = "same", "fits"


@dataclass(frozen=True, slots=True)
class ItemChanges:
    """How the catalogue of the second bundle differs from that of the first."""

    n_before: int
    n_after: int
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    """Items with another title, category, creator, age or availability."""
    has_same_rows: bool
    """Whether every row is the same item."""


@dataclass(frozen=True, slots=True)
class BundleDifference:
    """Values as (first, second); None where a bundle has none."""

    first: str
    second: str
    facts: dict[str, tuple[Any, Any]]
    """Fingerprints, shapes, size, parents, age: those that differ."""
    files: dict[str, tuple[int | None, int | None]]
    """Sizes in bytes of files that differ."""
    settings: dict[str, tuple[Any, Any]]
    metrics: dict[str, tuple[Any, Any]]
    lineage: dict[str, tuple[Any, Any]]
    items: ItemChanges
    exchange: dict[str, str]
    """`scorer of B in A`: `same`, `fits`, maybe with its own towers, or why not."""

    def to_json(self) -> dict[str, Any]:
        """The difference as a JSON object; pairs become `{"first": ..., "second": ...}`."""
        pairs = ("facts", "files", "settings", "metrics", "lineage")
        document = asdict(self)
        for name in pairs:
            document[name] = {
                key: {"first": before, "second": after}
                for key, (before, after) in getattr(self, name).items()
            }
        return document


def difference(registry: Registry, first_id: str, second_id: str) -> BundleDifference:
    """Compare two bundles of the registry.

    Raises:
        BundleNotFound: one of them is not there.
        BundleCorrupt: a manifest, the settings or the item table of one cannot be read.
    """
    first, second = registry.manifest(first_id), registry.manifest(second_id)
    return BundleDifference(
        first=first_id,
        second=second_id,
        facts=changes(_facts(first), _facts(second)),
        files=_file_changes(first, second),
        settings=changes(_settings(registry, first), _settings(registry, second)),
        metrics=changes(flat(first.metrics), flat(second.metrics)),
        lineage=changes(flat(first.lineage), flat(second.lineage)),
        items=item_changes(_items(registry, first), _items(registry, second)),
        exchange=_exchange(registry, first, second),
    )


def flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The leaves of a tree by dotted key; a list is a leaf."""
    return dict(_leaves(tree, prefix))


def changes(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The keys whose values differ, with both values."""
    return {
        key: (first.get(key), second.get(key))
        for key in sorted(first.keys() | second.keys())
        if first.get(key) != second.get(key)
    }


def item_changes(first: ItemFacts, second: ItemFacts) -> ItemChanges:
    """Which items came, went or changed; popularity, which always moves, is no change."""
    before, after = first.by_id, second.by_id
    return ItemChanges(
        n_before=len(first.item_ids),
        n_after=len(second.item_ids),
        added=tuple(name for name in second.item_ids if name not in before),
        removed=tuple(name for name in first.item_ids if name not in after),
        changed=tuple(
            name for name in second.item_ids if name in before and before[name] != after[name]
        ),
        has_same_rows=first.item_ids == second.item_ids,
    )


def difference_text(found: BundleDifference) -> str:
    """The difference for a person, one line per thing."""
    lines = [f"{found.first} -> {found.second}"]
    shown = shown_metrics(found.metrics)
    for title, pairs in (
        ("differs in", found.facts),
        ("settings", found.settings),
        ("metrics", shown),
        ("lineage", found.lineage),
    ):
        lines += [title, *(f"  {key}: {_pair(pair)}" for key, pair in pairs.items())] * bool(pairs)
        if pairs is shown:
            lines += _not_shown(found.metrics)
    if found.files:
        lines.append("files (bytes)")
        lines += [f"  {name}: {_sizes(pair)}" for name, pair in found.files.items()]
    items = found.items
    lines.append(f"items  {items.n_before} -> {items.n_after}{_rows(items)}")
    for title, names in (
        ("added", items.added),
        ("removed", items.removed),
        ("changed", items.changed),
    ):
        if names:
            more = ", ..." if len(names) > _MAX_NAMED else ""
            lines.append(f"  {len(names)} {title}: {', '.join(names[:_MAX_NAMED])}{more}")
    lines.append("parts")
    lines += [f"  {part}: {verdict}" for part, verdict in found.exchange.items()]
    return "\n".join(lines)


def shown_metrics(pairs: Mapping[str, tuple[Any, Any]]) -> dict[str, tuple[Any, Any]]:
    """The metrics for a person: those of both, a mean with its interval as one, tables left out.

    A list, such as the gate's rules, is a table of its own, which `bundle show` has.
    """
    shown: dict[str, tuple[Any, Any]] = {}
    for key, pair in pairs.items():
        stem, _, last = key.rpartition(".")
        if any(value is None or isinstance(value, list) for value in pair):
            continue
        if last in ("low", "high") and f"{stem}.mean" in pairs:
            continue
        shown[stem if last == "mean" else key] = (
            (_mean(pairs, stem, 0), _mean(pairs, stem, 1)) if last == "mean" else pair
        )
    return shown


def _not_shown(pairs: Mapping[str, tuple[Any, Any]]) -> list[str]:
    n_alone = sum(None in pair for pair in pairs.values())
    return [f"  {n_alone} more are of one bundle alone; see 'cluster bundle show'"] * bool(n_alone)


def _mean(pairs: Mapping[str, tuple[Any, Any]], stem: str, side: int) -> str:
    mean, low, high = (
        pairs.get(f"{stem}.{name}", (None, None))[side] for name in ("mean", "low", "high")
    )
    within = "" if low is None or high is None else f" [{_value(low)}, {_value(high)}]"
    return f"{_value(mean)}{within}"


def _leaves(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def scoring_space(manifest: Manifest) -> str:
    """Fingerprint of the space whose vectors the scorer reads: its own one, or the retrieval's."""
    own = manifest.scorer_space
    return manifest.space_fingerprint if own is None else own.fingerprint


def _facts(manifest: Manifest) -> dict[str, Any]:
    return {
        "created": manifest.created_at,
        "embedding space": manifest.space_fingerprint[:16],
        "scorer's space": scoring_space(manifest)[:16],
        "feature schema": manifest.feature_schema_hash,
        "actions": list(manifest.actions),
        "items": manifest.n_items,
        "shards": manifest.n_shards,
        "embedding width": manifest.embedding_dim,
        "size (bytes)": manifest.n_bytes,
        "parents": list(manifest.parents),
    }


def _file_changes(first: Manifest, second: Manifest) -> dict[str, tuple[int | None, int | None]]:
    """Sizes of the files whose contents differ."""
    return {
        name: (None if before is None else before.size, None if after is None else after.size)
        for name, (before, after) in changes(first.files, second.files).items()
    }


def _settings(registry: Registry, manifest: Manifest) -> dict[str, Any]:
    if SETTINGS_FILE not in manifest.files:
        return {}
    try:
        tree = json.loads(registry.read_file(manifest, SETTINGS_FILE))
    except ValueError as error:
        raise BundleCorrupt(
            f"{SETTINGS_FILE} of bundle {manifest.bundle_id} is not valid JSON: {error}"
        ) from error
    return flat(tree) if isinstance(tree, dict) else {}


def _items(registry: Registry, manifest: Manifest) -> ItemFacts:
    if ITEMS_FILE not in manifest.files:
        return ItemFacts([], {})
    try:
        return read_item_facts(registry.read_file(manifest, ITEMS_FILE))
    except ValueError as error:
        raise BundleCorrupt(
            f"{ITEMS_FILE} of bundle {manifest.bundle_id} cannot be read: {error}"
        ) from error


def _exchange(registry: Registry, first: Manifest, second: Manifest) -> dict[str, str]:
    return {
        f"{part} of {donor.bundle_id} in {into.bundle_id}": _verdict(registry, into, donor, part)
        for part in Part
        for into, donor in ((first, second), (second, first))
    }


def _verdict(registry: Registry, base: Manifest, donor: Manifest, part: Part) -> str:
    try:
        fit = part_fit(registry, base, donor, part)
        if not fit.misfits and has_same_part(registry, base, donor, part):
            return SAME
    except BundleError as error:
        return f"cannot be told: {error}"
    if fit.misfits:
        return "does not fit: another " + ", another ".join(m.what for m in fit.misfits)
    if not fit.carries_space:
        return FITS
    known = base.n_items - fit.n_unknown
    return f"{FITS} with its own towers, which know {known} of {base.n_items} items"


def _pair(pair: tuple[Any, Any]) -> str:
    return " -> ".join("none" if value is None else _value(value) for value in pair)


def _value(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _sizes(pair: tuple[int | None, int | None]) -> str:
    before, after = pair
    return f"{before}, other content" if before == after else _pair(pair)


def _rows(items: ItemChanges) -> str:
    return ", every row the same item" if items.has_same_rows else ", rows moved"
