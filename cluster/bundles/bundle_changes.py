"""`cluster bundle compose | diff | pin | gc`: what changes the registry, and what compares."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console
from cluster.who_and_when import now_ms, who

if TYPE_CHECKING:
    from cluster.bundles.removal import Sweep
    from recsys.bundles.registry import Registry


@click.command(
    epilog="""\b
    Examples:
      cluster bundle compose --base b20261122-091500-4e1c9a --scorer b20261121-170311-0b77d2
      cluster bundle compose --base b20261122-091500-4e1c9a --ordering b20261121-170311-0b77d2
      cluster bundle compose --base B --scorer C --dry-run     (only check whether it fits)

    Exits 1 if a part does not fit, and names what differs and what would fit.
    """
)
@click.option("--base", required=True, metavar="B", help="Retrieval, and whatever is not named.")
@click.option("--scorer", metavar="C", help="Take the scorer of this bundle.")
@click.option("--ordering", metavar="D", help="Take the ordering policy of this bundle.")
@click.option("--dry-run", is_flag=True, help="Check; publish nothing.")
@click.pass_obj
def compose(
    console: Console, base: str, scorer: str | None, ordering: str | None, dry_run: bool
) -> None:
    """Publish a bundle made of parts of others; it serves nobody before its rollout.

    A scorer fits where the feature schema and the actions are the same and its towers know at least
    80 % of the base's items. One that was trained on other towers brings them along: it reads the
    user a second time, which every request pays for. An ordering policy fits everywhere. Parts that
    were put together before are not published twice: the bundle that is there is named.
    """
    from cluster.bundles.bundle_parts import compose_parts, outcome
    from recsys.bundles.composition import plan_composition

    if dry_run:
        plan = plan_composition(_registry(console), base, scorer, ordering)
        made = plan.existing
        document = outcome(plan, made or "", is_new=made is None)
        said = f"it is there already: {made}" if made else "nothing was published"
        console.emit(document, f"the parts fit{_brought(document)}; {said}")
        return
    document = compose_parts(console, base, scorer, ordering)
    said = "published" if document["is_new"] else "is there already:"
    console.emit(
        document,
        f"{said} {document['bundle_id']}{_brought(document)}; roll it out with "
        f"'cluster canary start {document['bundle_id']}'",
    )


def _brought(document: Mapping[str, Any]) -> str:
    """What a scorer of another training brings along, in words."""
    if not document.get("carries_space"):
        return ""
    n_estimated = document.get("n_estimated", 0)
    unknown = f", which do not know {n_estimated} of the items" if n_estimated else ""
    return f", the scorer with its own towers{unknown}"


@click.command(
    epilog="""\b
    Examples:
      cluster bundle diff b20261121-170311-0b77d2 b20261122-091500-4e1c9a
      cluster --json bundle diff A B | jq .exchange
    """
)
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@click.pass_obj
def diff(console: Console, first: str, second: str) -> None:
    """Say what differs between two bundles, and which part of one would fit the other."""
    from cluster.bundles.bundle_difference import difference, difference_text

    found = difference(_registry(console), first, second)
    console.emit(found.to_json(), difference_text(found))


@click.command(
    epilog="""\b
    Examples:
      cluster bundle pin b20261122-091500-4e1c9a --why "the audit of March"
      cluster bundle pin b20261122-091500-4e1c9a --off
    """
)
@click.argument("bundle_id", metavar="BUNDLE")
@click.option("--off", is_flag=True, help="Let it go again.")
@click.option("--why", default="", help="For whoever asks later.")
@click.pass_obj
def pin(console: Console, bundle_id: str, off: bool, why: str) -> None:
    """Keep a bundle in the registry whatever 'cluster bundle gc' finds."""
    from cluster.bundles.pins import Pin, Pins

    by, at_ms = who(), now_ms()
    pins = Pins(console.settings.control_url)
    try:
        if off:
            changed = pins.remove(bundle_id)
        else:
            _registry(console).manifest(bundle_id)
            changed = pins.add(Pin(bundle_id, at_ms, by, why))
    finally:
        pins.close()
    state = "not pinned" if off else "pinned"
    if changed:
        _note(console, "unpin" if off else "pin", bundle_id, why)
    document = {"bundle_id": bundle_id, "is_pinned": not off, "has_changed": changed}
    console.emit(document, f"{bundle_id} is {state}{'' if changed else ', as it was'}")


@click.command(
    epilog="""\b
    Examples:
      cluster bundle gc --dry-run
      cluster bundle gc --keep 3

    Removes what nothing refers to. Kept are: what an alias, the traffic plan, the required bundles,
    a running replica, an unfinished rollout, or an open shadow or experiment names; pinned ones;
    parts of kept compositions, and of those being made; the newest and the earlier stable ones
    (--keep of each); whatever is younger than an hour; and what cannot be read, which is named.
    """
)
@click.option(
    "--keep",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="So many earlier stable bundles, and so many of the newest.",
)
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@click.pass_obj
def gc(console: Console, keep: int, dry_run: bool) -> None:
    """Remove bundles that nothing needs, and say how much space that gives."""
    from cluster.bundles.references import ReferenceReader
    from cluster.bundles.removal import sweep

    registry = _registry(console)
    with (
        ReferenceReader(console.settings.control_url) as references,
        console.progress("gc") as show,
    ):
        swept = sweep(
            registry,
            lambda: references.read(now_ms()),
            keep=keep,
            clock=now_ms,
            dry_run=dry_run,
            report=show,
        )
    if swept.removed and not dry_run:
        names = ", ".join(bundle.bundle_id for bundle in swept.removed)
        _note(console, "gc", names, f"{_megabytes(swept.n_bytes)}, kept {len(swept.kept)}")
    document = {
        "is_dry_run": dry_run,
        "removed": [asdict(bundle) for bundle in swept.removed],
        "n_bytes": swept.n_bytes,
        "kept": swept.kept,
        "finished": list(swept.finished),
        "broken": swept.broken,
    }
    console.emit(document, _sweep_text(swept, dry_run))


def _sweep_text(swept: Sweep, dry_run: bool) -> str:
    lines = [
        f"{'would remove' if dry_run else 'removed'} {bundle.bundle_id}  "
        f"{_megabytes(bundle.n_bytes)}"
        for bundle in swept.removed
    ]
    lines += [f"finished the removal of {name}" for name in swept.finished]
    lines += [f"kept {name}  {reason}" for name, reason in swept.kept.items()]
    lines += [f"left alone {name}  {reason}" for name, reason in swept.broken.items()]
    verb = "would be freed" if dry_run else "freed"
    lines.append(f"{_megabytes(swept.n_bytes)} {verb}: {len(swept.removed)} bundles")
    return "\n".join(lines)


def _note(console: Console, verb: str, what: str, why: str) -> None:
    """One line in the history of what was changed."""
    from cluster.rollouts.storing.control_writer import ControlWriter, HistoryEntry

    writer = ControlWriter(console.settings.control_url)
    try:
        writer.append_history(HistoryEntry(now_ms(), who(), verb, what, why))
    finally:
        writer.close()


def _registry(console: Console) -> Registry:
    from recsys.bundles.registry import open_registry

    return open_registry(console.settings)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"
