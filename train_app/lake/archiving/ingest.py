"""Brings the lake up to the log's present end, for a training that begins; the archiver's work."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.stores.log.event_log import EventLog
from recsys.stores.log.open_log import open_log
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.archiving.filled_table import stored_positions
from train_app.lake.lake_schema import LOG_TABLES
from train_app.lake.lake_tables import Lake

Progress = Callable[[str, int, int | None], None]
_PAUSE_S = 0.05
"""Between two looks while the log gives nothing, or another archiver is at it."""
STUCK_AFTER_S = 60.0
"""A lake that comes no further for so long, although the log has more, is an error."""


@dataclass
class IngestReport:
    """What one run brought in."""

    n_records: int = 0
    """Records of the log that were read."""
    n_rows: dict[str, int] = field(default_factory=lambda: dict.fromkeys(LOG_TABLES, 0))
    """Rows added, by table; `quarantine` has the records that are no event."""
    n_missed: int = 0
    """Records that were gone from the log before they could be read."""
    n_repeated: int = 0
    """Records whose event the lake had already."""
    offsets: dict[int, int] = field(default_factory=dict)
    """The next offset of every partition."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """The report as a JSON document."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        rows = ", ".join(f"{name} {count:,}" for name, count in self.n_rows.items() if count)
        missed = f"; {self.n_missed:,} were gone from the log" if self.n_missed else ""
        return (
            f"{self.n_records:,} log records into the lake in {self.seconds:.1f} s:"
            f" {rows or 'nothing new'}{missed}"
        )


def run_ingest(
    settings: Settings, progress: Progress = lambda stage, done, total: None
) -> IngestReport:
    """Bring the lake up to the log's present end; without an embedded log, do nothing.

    Other archivers may be at work meanwhile: what they bring in need not be brought in here.

    Raises:
        StoreError: log or lake failed; what was committed stays, running again completes it.
    """
    if settings.events.backend == "sqlite" and not settings.log_path.exists():
        return IngestReport()
    log = open_log(settings)
    try:
        lake = Lake(settings.lake_location)
        return ingest(log, lake, Archiver(log, lake, settings), progress)
    finally:
        log.close()


def ingest(
    log: EventLog,
    lake: Lake,
    archiver: Archiver,
    progress: Progress = lambda stage, done, total: None,
    pause: Callable[[float], None] = time.sleep,
) -> IngestReport:
    """Turn an archiver until the lake has what the log has now.

    Raises:
        StoreError: as `run_ingest`.
    """
    started_s = moved_s = time.monotonic()
    report = IngestReport()
    ends = log.end_offsets()
    while True:
        n_records = archiver.bring_in(ends)
        report.n_records += n_records
        progress("ingest", report.n_records, None)
        before, report.offsets = report.offsets, stored_positions(lake, ends)
        if all(report.offsets[partition] >= end for partition, end in ends.items()):
            break
        if report.offsets != before:
            moved_s = time.monotonic()
        elif time.monotonic() - moved_s > STUCK_AFTER_S:
            raise StoreError(
                f"the lake {lake.location} has the log up to {report.offsets} and comes no further,"
                f" expected up to {ends}; see 'cluster lake check' and 'cluster status'"
            )
        else:
            pause(_PAUSE_S)
    report.n_rows |= archiver.n_rows
    report.n_missed, report.n_repeated = archiver.n_missed, archiver.n_repeated
    report.seconds = time.monotonic() - started_s
    archiver.close()
    return report
