"""How fast the archiver brings the log into the lake: `python -m bench.archiver_rate`.

Measures the whole way on one core's worth of work: reading the embedded log, decoding, Parquet,
commits. Impressions are of 20 items, with a history of 20 and 5 that were not shown.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recsys.errors import RecsysError
from recsys.events import Engagement, Event, Impression, ShownItem, UnshownItem, new_event_id
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.archiving.ingest import ingest
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake

_USERS, _ITEMS = 10_000, 50_000
_APPEND = 5_000
_WARM_UP = 500


@dataclass(frozen=True, slots=True)
class ArchiverRate:
    """One kind of event, brought in once."""

    events: str
    n_events: int
    seconds: float
    """By the clock of the wall."""
    cpu_s: float
    """Processor time of this process: on a busy machine the fairer one of the two."""
    bytes_per_event: float
    """In the lake, after the last commit."""
    check_s: float
    """What proving the lake whole took."""

    @property
    def events_per_s(self) -> float:
        """Events a second by the wall."""
        return self.n_events / self.seconds

    @property
    def events_per_cpu_s(self) -> float:
        """Events a second of processor time."""
        return self.n_events / self.cpu_s


def run(n_engagements: int = 400_000, n_impressions: int = 60_000) -> list[ArchiverRate]:
    """Measure both kinds, each on a log and a lake of its own."""
    kinds: list[tuple[str, int, Callable[[int], Event]]] = [
        ("engagements", n_engagements, _engagement),
        ("impressions of 20 items", n_impressions, _impression),
    ]
    # The first rows of a process cost a second or two of imports inside the libraries.
    for name, _, make in kinds:
        _measure(name, _WARM_UP, make)
    return [_measure(name, n_events, make) for name, n_events, make in kinds]


def show(console: Console, rates: list[ArchiverRate]) -> None:
    """Print the table."""
    table = Table(title="archiver: log to lake")
    for column in ("events", "n", "events/s", "events/CPU s", "bytes/event", "check s"):
        table.add_column(column, justify="left" if column == "events" else "right")
    for rate in rates:
        table.add_row(
            rate.events,
            f"{rate.n_events:,}",
            f"{rate.events_per_s:,.0f}",
            f"{rate.events_per_cpu_s:,.0f}",
            f"{rate.bytes_per_event:.0f}",
            f"{rate.check_s:.2f}",
        )
    console.print(table)


def _measure(name: str, n_events: int, make: Callable[[int], Event]) -> ArchiverRate:
    with tempfile.TemporaryDirectory(prefix="flywheel-bench-") as directory:
        settings = Settings(data_dir=Path(directory))
        log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
        try:
            for start in range(0, n_events, _APPEND):
                log.append([make(n) for n in range(start, min(start + _APPEND, n_events))])
            lake = Lake(settings.lake_location)
            archiver = Archiver(log, lake, settings)
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            report = ingest(log, lake, archiver)
            seconds = time.perf_counter() - began_s
            cpu_s = time.process_time() - began_cpu_s
            began_s = time.perf_counter()
            found = check_lake(lake, log)
            check_s = time.perf_counter() - began_s
        finally:
            log.close()
        if report.n_records != n_events or not found.is_whole:
            raise RecsysError(
                f"the lake has {report.n_records} of {n_events} records, problems:"
                f" {found.problems}; the rate means nothing"
            )
        size = sum(file.stat().st_size for file in _data_files(Path(settings.lake_location)))
    return ArchiverRate(name, n_events, seconds, cpu_s, size / n_events, check_s)


def _data_files(lake: Path) -> Iterator[Path]:
    return lake.rglob("part-*.parquet")


def _engagement(n: int) -> Engagement:
    now_ms = time.time_ns() // 1_000_000
    return Engagement(
        event_id=new_event_id(),
        kind="click",
        user_id=f"user-{n * 7919 % _USERS}",
        item_id=f"item-{n * 104_729 % _ITEMS}",
        timestamp_ms=now_ms,
        received_at_ms=now_ms,
        origin="api",
        request_id=new_event_id(),
        position=n % 20,
    )


def _impression(n: int) -> Impression:
    items = [f"item-{(n * 104_729 + k * 7919) % _ITEMS}" for k in range(45)]
    score = n % 1000 / 1000
    return Impression(
        event_id=new_event_id(),
        request_id=new_event_id(),
        user_id=f"user-{n * 7919 % _USERS}",
        timestamp_ms=time.time_ns() // 1_000_000,
        bundle_id="b20260101-000000-abcdef",
        variant="stable",
        slate=tuple(
            ShownItem(
                item_id=item_id,
                position=position,
                score=score - position / 40,
                propensity=0.95,
                source="index",
                retrieval_score=score - position / 80,
                retrieval_rank=position * 3,
            )
            for position, item_id in enumerate(items[:20])
        ),
        unshown=tuple(
            UnshownItem(
                item_id=item_id,
                score=score - 1,
                score_rank=20 + rank,
                source="index",
                retrieval_score=score - 1,
                retrieval_rank=100 + rank,
            )
            for rank, item_id in enumerate(items[20:25])
        ),
        history_items=tuple(items[25:]),
        context={"device": "tv"},
        stage_ms={"retrieve": 1.5, "score": 2.25, "order": 0.5},
    )


def main() -> int:
    """Measure and print; with `--json` one document."""
    parser = argparse.ArgumentParser(prog="python -m bench.archiver_rate", description=__doc__)
    parser.add_argument("--engagements", type=int, default=400_000)
    parser.add_argument("--impressions", type=int, default=60_000)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    rates = run(arguments.engagements, arguments.impressions)
    if arguments.json:
        print(json.dumps([asdict(rate) for rate in rates], indent=2))
    else:
        show(Console(), rates)
    return 0


if __name__ == "__main__":
    sys.exit(main())
