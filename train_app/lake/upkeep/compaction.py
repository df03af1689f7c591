"""Rewrites the many small files of a day into few; what the tables hold stays the same."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field

import pyarrow as pa
from deltalake.exceptions import CommitFailedError
from deltalake.transaction import CommitProperties

from recsys.data_settings import LakeSettings
from train_app.lake.lake_append import KEEP_LOGS, MAX_ATTEMPTS, NOTE_KEY, is_conflict
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES
from train_app.lake.lake_tables import Lake, LakeTable

_SMALL_SHARE = 0.5
"""A file smaller than this share of the target is worth joining to others."""
_NOTE = CommitProperties(custom_metadata={NOTE_KEY: json.dumps({"by": "compaction"})})


@dataclass
class CompactionReport:
    """What was rewritten."""

    days: dict[str, list[str]] = field(default_factory=dict)
    """Days rewritten, by table."""
    n_removed: int = 0
    """Small files that are no longer part of the newest version."""
    n_added: int = 0

    def as_dict(self) -> dict[str, object]:
        """The report as a JSON document."""
        return asdict(self)


def days_to_compact(
    sizes: Mapping[str, Sequence[int]], max_small: int, target_bytes: int
) -> list[str]:
    """The days with more than `max_small` small files, those with most of them first.

    Args:
        sizes: the size of every file in bytes, by day.
    """
    n_small = {
        day: sum(size < target_bytes * _SMALL_SHARE for size in found)
        for day, found in sizes.items()
    }
    crowded = [day for day, n in n_small.items() if n > max_small]
    return sorted(crowded, key=lambda day: (-n_small[day], day))


def file_sizes(table: LakeTable) -> dict[str, list[int]]:
    """The size in bytes of every file of a table, by day."""
    with lake_errors("read", table.location):
        actions = pa.table(table.delta.get_add_actions(flatten=True))
    sizes: dict[str, list[int]] = {}
    days = actions[f"partition.{PARTITION_COLUMN}"].to_pylist()
    for day, size in zip(days, actions["size_bytes"].to_pylist(), strict=True):
        sizes.setdefault(str(day), []).append(size)
    return sizes


def compact_lake(
    lake: Lake,
    settings: LakeSettings,
    max_days: int | None = None,
    progress: Callable[[str, int, int | None], None] = lambda stage, done, total: None,
) -> CompactionReport:
    """Rewrite crowded days of all tables, the most crowded ones first; at most `max_days`.

    Appends go on meanwhile: they and a rewrite do not hinder each other.

    Raises:
        StoreError: a table could not be read or written; days already done stay done.
    """
    report = CompactionReport()
    target_bytes = settings.target_file_mb * 1_000_000
    for name in TABLES:
        table = lake.find(name)
        if table is None:
            continue
        days = days_to_compact(file_sizes(table), settings.compact_files, target_bytes)
        left = None if max_days is None else max_days - sum(map(len, report.days.values()))
        for done, day in enumerate(days[:left], start=1):
            _compact_day(table, day, target_bytes, report)
            report.days.setdefault(name, []).append(day)
            progress(f"compact {name}", done, len(days))
    return report


def _compact_day(table: LakeTable, day: str, target_bytes: int, report: CompactionReport) -> None:
    with lake_errors("compact", table.location):
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                figures = table.delta.optimize.compact(
                    partition_filters=[(PARTITION_COLUMN, "=", day)],
                    target_size=target_bytes,
                    max_concurrent_tasks=1,
                    commit_properties=_NOTE,
                    post_commithook_properties=KEEP_LOGS,
                )
            except CommitFailedError as error:
                if not is_conflict(error) or attempt == MAX_ATTEMPTS:
                    raise
                table.delta.update_incremental()
            else:
                report.n_removed += figures["numFilesRemoved"]
                report.n_added += figures["numFilesAdded"]
                return
