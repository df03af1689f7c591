"""`cluster backup`: keep what cannot be made anew somewhere else, and bring it back."""

from __future__ import annotations

import time
from dataclasses import asdict
from datetime import UTC, datetime

import click

from cluster.console import Console


@click.group(
    epilog="""\b
    Examples:
      cluster backup create s3://elsewhere/flywheel
      cluster backup create /mnt/backup/flywheel
      cluster backup restore s3://elsewhere/flywheel
    """
)
def backup() -> None:
    """Copy control store, bundles and lake somewhere else, and bring them back."""


@backup.command(
    epilog="""\b
    Examples:
      cluster backup create s3://elsewhere/flywheel
      cluster --json backup create /mnt/backup/flywheel | jq .n_copied
    """
)
@click.argument("place")
@click.pass_obj
def create(console: Console, place: str) -> None:
    """Copy to PLACE, a directory or URL; again at the same place copies only what is new.

    Serving, training and the archiver go on meanwhile.
    """
    from cluster.stores.backup import create_backup

    began_s = time.monotonic()
    now_ms = time.time_ns() // 1_000_000
    facts = create_backup(console.settings, place, now_ms, console.note)
    took_s = round(time.monotonic() - began_s, 2)
    text = (
        f"{place}: {facts.n_rows} rows of the control store, {facts.n_bundles} bundles, "
        f"{facts.n_lake_files} files of the lake ({facts.n_copied} new) in {took_s} s"
    )
    console.emit({"place": place, **asdict(facts), "took_s": took_s}, text)


@backup.command(
    epilog="""\b
    Examples:
      cluster down && cluster backup restore s3://elsewhere/flywheel
    """
)
@click.argument("place")
@click.pass_obj
def restore(console: Console, place: str) -> None:
    """Put the backup at PLACE into the stores of the settings, which have to be empty.

    Then: `cluster events replay --features --from-lake`, the same with --evidence, `cluster up`.
    """
    from cluster.stores.backup import restore_backup

    began_s = time.monotonic()
    facts = restore_backup(console.settings, place, console.note)
    took_s = round(time.monotonic() - began_s, 2)
    made = datetime.fromtimestamp(facts.made_ms / 1000, UTC).isoformat(timespec="seconds")
    text = (
        f"restored the backup of {made} in {took_s} s; next: 'cluster events replay --features "
        "--from-lake', 'cluster events replay --evidence --from-lake', 'cluster up --wait'"
    )
    console.emit({"place": place, **asdict(facts), "took_s": took_s}, text)
