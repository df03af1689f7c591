"""Deletes what no reader can still need: old data files, then old commits.

A version that a published bundle's lineage names is kept with all its files, whatever its age.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

import pyarrow.fs as pa_fs
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from recsys.bundles.registry import Registry
from recsys.errors import StoreError
from train_app.lake.lake_append import KEEP_LOGS
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_files import files_of
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake, LakeTable

_LOG_FILE = re.compile(r"^(\d{20})(\.checkpoint)?\..*(json|parquet)$")
MIN_ORPHAN_HOURS = 1
"""A file that no commit names may belong to a commit about to come; so long it is left alone."""


@dataclass
class RetentionReport:
    """What was deleted."""

    n_files: dict[str, int] = field(default_factory=dict)
    """Data files, by table."""
    n_log_files: dict[str, int] = field(default_factory=dict)
    """Files of old commits, by table."""
    pinned: dict[str, list[int]] = field(default_factory=dict)
    """Versions kept because a bundle names them, by table."""
    lost: dict[str, list[int]] = field(default_factory=dict)
    """Versions a bundle names that the lake has not got, by table."""

    def as_dict(self) -> dict[str, object]:
        """The report as a JSON document."""
        return asdict(self)


def pinned_versions(registry: Registry) -> dict[str, set[int]]:
    """The versions of each table that published bundles name as what they learned from.

    Raises:
        StoreError: a bundle's manifest cannot be read, so that nobody knows what it names.
    """
    manifests, broken = registry.survey()
    if broken:
        bundle_id, reason = broken[0]
        raise StoreError(
            f"bundle {bundle_id} cannot be read ({reason}), so the lake versions it needs are not"
            " known and nothing is deleted; mend or remove the bundle first"
        )
    pinned: dict[str, set[int]] = {}
    for manifest in manifests:
        versions = manifest.lineage.get("lake_versions")
        for name, version in versions.items() if isinstance(versions, dict) else ():
            pinned.setdefault(name, set()).add(int(version))
    return pinned


def vacuum_lake(
    lake: Lake,
    pinned: Mapping[str, Collection[int]],
    retention_days: float,
    now_s: float | None = None,
) -> RetentionReport:
    """Delete the files that neither the newest, nor a recent, nor a pinned version needs.

    Raises:
        StoreError: a table could not be read or written.
    """
    report = RetentionReport()
    now_s = time.time() if now_s is None else now_s
    for name in TABLES:
        table = lake.find(name)
        if table is None:
            continue
        with lake_errors("vacuum", table.location):
            kept, lost = _readable(table, sorted(pinned.get(name, ())))
            report.pinned[name] = kept
            if lost:
                report.lost[name] = lost
            report.n_files[name] = _vacuum(table, kept, retention_days)
            oldest_s = now_s - retention_days * 86_400
            report.n_log_files[name] = _clean_log(table, kept, oldest_s)
    return report


def log_files_to_delete(
    names: Iterable[str], needed_versions: Collection[int], newest_version: int
) -> list[str]:
    """The files of a `_delta_log` that no needed version is read with.

    A version is read from the newest checkpoint at or below it and the commits after that.
    """
    found = [(name, match) for name in names if (match := _LOG_FILE.match(name))]
    checkpoints = sorted({int(match[1]) for _, match in found if match[2]})
    oldest = min([*needed_versions, newest_version])
    below = [version for version in checkpoints if version <= oldest]
    if not below:
        return []
    return sorted(name for name, match in found if int(match[1]) < below[-1])


def _readable(table: LakeTable, versions: list[int]) -> tuple[list[int], list[int]]:
    """The versions the table still has, and those it has not: of a lake that was begun anew."""
    kept, lost = [], []
    for version in versions:
        try:
            DeltaTable(table.location, version=version)
        except DeltaError:
            lost.append(version)
        else:
            kept.append(version)
    return kept, lost


def _vacuum(table: LakeTable, kept: list[int], retention_days: float) -> int:
    hours = math.ceil(retention_days * 24)
    deleted = table.delta.vacuum(
        retention_hours=hours,
        dry_run=False,
        enforce_retention_duration=False,
        full=hours >= MIN_ORPHAN_HOURS,
        keep_versions=kept or None,
        post_commithook_properties=KEEP_LOGS,
    )
    return len(deleted)


def _clean_log(table: LakeTable, kept: list[int], oldest_s: float) -> int:
    """Delete commits that only versions older than the retention were read with."""
    filesystem, root = files_of(table.location)
    entries = filesystem.get_file_info(pa_fs.FileSelector(f"{root}/_delta_log"))
    cutoff = datetime.fromtimestamp(oldest_s, UTC)
    newest = table.version
    recent = [
        int(match[1])
        for entry in entries
        if (match := _LOG_FILE.match(entry.base_name)) and entry.mtime >= cutoff
    ]
    # The version in force when the retention begins was written before it.
    needed = [*kept, max(0, min(recent, default=newest) - 1)]
    doomed = log_files_to_delete([entry.base_name for entry in entries], needed, newest)
    for name in doomed:
        filesystem.delete_file(f"{root}/_delta_log/{name}")
    return len(doomed)
