"""The verbs `lake-check`, `lake-compact` and `lake-history`: their results as JSON and as text."""

from __future__ import annotations

import sys
from contextlib import closing
from dataclasses import asdict
from typing import Any

from recsys.bundles.registry import open_registry
from recsys.errors import ConfigError, StoreError
from recsys.settings import Settings
from recsys.stores.log.open_log import open_log
from train_app.command_outcome import Outcome
from train_app.lake.archiving.gap_verdict import GapVerdict, acknowledge, known_gaps
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.compaction import CompactionReport, compact_lake
from train_app.lake.upkeep.lake_check import LakeCheckReport, check_lake
from train_app.lake.upkeep.lake_history import Change, read_history
from train_app.lake.upkeep.lake_retention import RetentionReport, pinned_versions, vacuum_lake
from train_app.progress import open_progress


def check_whole(settings: Settings, *, acknowledge_gaps: str | None = None) -> Outcome:
    """`lake-check`: is every record of the log in the lake, once? Exit code 1 if not.

    Args:
        acknowledge_gaps: why the records that are lost need alarm nobody any more.
    """
    lake = Lake(settings.lake_location)
    report, problem = _checked(settings, lake)
    gaps = {partition: found.gaps for partition, found in report.partitions.items() if found.gaps}
    verdict = known_gaps(settings.control_url, gaps) if gaps else GapVerdict({}, ())
    if acknowledge_gaps is not None:
        verdict = acknowledge(settings.control_url, verdict, acknowledge_gaps)
    failure = verdict.alarm()
    if not report.is_whole:
        failure = StoreError(
            f"the lake {lake.location} is not whole: {len(report.problems)} problems, expected"
            " none; restore it from a backup, or move the tables named away and run 'python -m"
            " train_app ingest', which brings back what the log still holds"
        )
    document = report.as_dict() | {"note": problem} | verdict.as_dict()
    return Outcome(document, _check_text(report, problem, verdict), failure)


def _checked(settings: Settings, lake: Lake) -> tuple[LakeCheckReport, str]:
    """The lake checked, and why the log could not be asked."""
    window_ms, problem = settings.events.dedup_window_s * 1000, ""
    if settings.events.backend == "sqlite" and not settings.log_path.exists():
        report = check_lake(lake, dedup_window_ms=window_ms)
        problem = "there is no log yet"
    else:
        try:
            log = open_log(settings)
        except StoreError as error:
            report = check_lake(lake, dedup_window_ms=window_ms)
            problem = f"the log could not be asked: {error}"
        else:
            with closing(log):
                report = check_lake(lake, log, dedup_window_ms=window_ms)
    return report, problem


def compact(settings: Settings, *, vacuum: bool = False) -> Outcome:
    """`lake-compact`: few large files; with `vacuum` also without what nobody needs any more."""
    lake = Lake(settings.lake_location)
    with open_progress(sys.stderr) as progress:
        report = compact_lake(
            lake,
            settings.lake,
            progress=lambda stage, done, total: progress(stage, done / (total or 1)),
        )
    document: dict[str, Any] = report.as_dict()
    text = _compact_text(report)
    if vacuum:
        pinned = pinned_versions(open_registry(settings))
        retained = vacuum_lake(lake, pinned, settings.lake.retention_days)
        document["retention"] = retained.as_dict()
        text += f"\n{_vacuum_text(retained, settings.lake.retention_days)}"
    return Outcome(document, text)


def history(settings: Settings, *, table: str | None = None, limit: int = 20) -> Outcome:
    """`lake-history`: what was done to the tables, newest first.

    Raises:
        ConfigError: there is no such table.
    """
    if table is not None and table not in TABLES:
        raise ConfigError(f"the lake has no table '{table}', expected one of {', '.join(TABLES)}")
    changes = read_history(Lake(settings.lake_location), table, limit)
    document = {"changes": [asdict(change) for change in changes]}
    return Outcome(document, "\n".join(map(_change_line, changes)) or "the lake has no tables yet")


def _check_text(report: LakeCheckReport, problem: str, verdict: GapVerdict) -> str:
    lines = [f"{'table':<12} {'version':>8} {'files':>6} {'rows':>13} {'from files':>13}"]
    for name, table in report.tables.items():
        late = f"  {table.n_repeated_late:,} ids came late again" if table.n_repeated_late else ""
        lines.append(
            f"{name:<12} {table.version:>8} {table.n_files:>6} {table.n_rows:>13,}"
            f" {table.n_imported:>13,}{late}"
        )
    lines.append(f"{'partition':<12} {'up to':>13} {'rows':>13} {'log from':>13} {'log to':>13}")
    for partition, found in report.partitions.items():
        begin = "?" if found.log_begin is None else f"{found.log_begin:,}"
        end = "?" if found.log_end is None else f"{found.log_end:,}"
        skipped = ", ".join(f"{reason} {count:,}" for reason, count in found.skipped.items())
        lines.append(
            f"{partition:<12} {found.end:>13,} {found.n_rows:>13,} {begin:>13} {end:>13}"
            f"{f'  skipped: {skipped}' if skipped else ''}"
        )
    lines += [f"note: {problem}"] if problem else []
    lines += [f"wrong: {sentence}" for sentence in report.problems]
    lines += verdict.lines()
    if report.is_whole:
        lines.append(
            "whole: every offset is accounted for once, event ids are unique;"
            f" {report.lag:,} records of the log are not in the lake yet"
        )
    return "\n".join(lines)


def _compact_text(report: CompactionReport) -> str:
    if not report.days:
        return "nothing to compact: no day has too many small files"
    days = "; ".join(f"{name}: {', '.join(found)}" for name, found in report.days.items())
    return f"{report.n_removed:,} small files became {report.n_added:,} ({days})"


def _vacuum_text(report: RetentionReport, retention_days: float) -> str:
    n_pinned = sum(map(len, report.pinned.values()))
    lines = [
        f"deleted {sum(report.n_files.values()):,} data files and"
        f" {sum(report.n_log_files.values()):,} files of old commits that no version of the last"
        f" {retention_days:g} days needs; kept {n_pinned} versions that bundles name"
    ]
    lines += [
        f"{name}: versions {', '.join(map(str, versions))} are named by bundles and not there"
        for name, versions in report.lost.items()
    ]
    return "\n".join(lines)


def _change_line(change: Change) -> str:
    rows = "" if change.n_rows is None else f"{change.n_rows:+,} rows"
    offsets = ", ".join(f"{p}: {start} to {end}" for p, (start, end) in change.offsets.items())
    return (
        f"{change.at}  {change.table:<12} {change.version:>7}  {change.operation:<14}"
        f" {rows:>14}  {change.by}{f'  offsets {offsets}' if offsets else ''}"
    ).rstrip()
