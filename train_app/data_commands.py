"""The verbs that bring data into the lake: import and ingest."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from recsys.settings import Settings
from train_app.command_outcome import Outcome
from train_app.importing.import_history import ImportOptions, run_import
from train_app.lake.archiving.ingest import run_ingest
from train_app.progress import open_progress


def import_files(
    settings: Settings,
    *,
    source: Path,
    items: Path | None,
    users: Path | None,
    file_format: str,
    mapping: dict[str, str],
    delimiter: str | None,
    no_header: bool,
    kind: str | None,
    dry_run: bool,
) -> Outcome:
    """`import`: files into the lake and the feature store."""
    options = ImportOptions(
        source=source,
        items=items,
        users=users,
        format=file_format,
        mapping=mapping,
        delimiter=delimiter,
        header=not no_header,
        kind=kind,
        dry_run=dry_run,
    )
    with open_progress(sys.stderr) as progress:
        counts = CountProgress(progress)
        report = run_import(options, settings, counts)
        counts.end()
    return Outcome(report.as_dict(), report.text())


def ingest_log(settings: Settings) -> Outcome:
    """`ingest`: what the event log gained since the last time, into the lake."""
    with open_progress(sys.stderr) as progress:
        counts = CountProgress(progress)
        report = run_ingest(settings, counts)
        counts.end()
    return Outcome(report.as_dict(), report.text())


class CountProgress:
    """Turns counts of stages, whose end may not be known, into shares of steps."""

    def __init__(self, progress: Callable[[str, float], None]) -> None:
        self._progress = progress
        self._label = ""

    def __call__(self, stage: str, done: int, total: int | None) -> None:
        """Say that `done` of `total` of a stage is done; a new stage ends the one before."""
        if stage != self._label:
            self.end()
            self._label = stage
        self._progress(stage, min(0.99, done / total) if total else 0.0)

    def end(self) -> None:
        """The stage that was last told of has ended."""
        if self._label:
            self._progress(self._label, 1.0)
        self._label = ""
