"""Imports history: files into the lake and the feature store, each row once however often it runs.

One Delta commit shows all new engagements or none, so a run that died is simply run again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError
from recsys.settings import Settings
from recsys.stores.features.open_features import open_feature_writer
from recsys.types import HistoryEvent
from train_app.following.features.load_history import imported_histories, load_histories
from train_app.importing.import_entries import import_items, import_users
from train_app.importing.import_report import (
    EntryCounts,
    ImportReport,
    Quarantine,
    quarantine_lines,
)
from train_app.importing.raw_batch import LINE, BadRow, RawBatch
from train_app.importing.row_rules import RowRules
from train_app.importing.sources import ImportOptions, ImportSource, find_source, read_rows
from train_app.importing.staging import NewRows, StagedFacts, Staging, open_staging
from train_app.lake.lake_rows import IMPORT_MARK, append_import, complete_rows
from train_app.lake.lake_tables import Lake, LakeTable

__all__ = ["ImportOptions", "run_import"]

_KNOWN_ROWS = "lake_engagements"
_REJECTED_USERS = "CREATE TABLE rejected_users (source VARCHAR, line BIGINT, user_id VARCHAR)"
"""Whose the rejected rows are, where their column of users could be read."""

Progress = Callable[[str, int, int | None], None]
"""Told of a stage's name, how much of it is done, and how much there is where that is known."""


@dataclass
class _Import:
    """One import on its way."""

    options: ImportOptions
    settings: Settings
    source: ImportSource
    lake: Lake
    staging: Staging
    progress: Progress
    now_ms: int
    n_rows: int = 0
    time_units: Counter[str] = field(default_factory=Counter)
    quarantine: Quarantine = field(default_factory=Quarantine)

    def refuse(self, name: str, rows: list[BadRow]) -> None:
        """Set bad rows aside."""
        self.staging.reject(name, rows)
        owned = [row for row in rows if row.user_id]
        if owned:
            table = pa.table(
                {
                    "source": [name] * len(owned),
                    "line": [row.line for row in owned],
                    "user_id": [row.user_id for row in owned],
                }
            )
            self.staging.connection.register("owned", table)
            self.staging.connection.execute("INSERT INTO rejected_users SELECT * FROM owned")
            self.staging.connection.unregister("owned")
        for row in rows:
            self.quarantine.add(name, row)


def run_import(
    options: ImportOptions,
    settings: Settings,
    progress: Progress,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> ImportReport:
    """Import files into the lake and the feature store.

    Raises:
        ConfigError: an option has no such value.
        DataError: the files cannot be imported, or not one of their rows can be used.
        StoreError: the lake, the feature store or the disk failed; running it again is safe.
    """
    started_s = time.monotonic()
    source = find_source(options)
    with open_staging(settings.data_dir / "tmp") as staging:
        staging.connection.execute(_REJECTED_USERS)
        job = _Import(
            options, settings, source, Lake(settings.lake_location), staging, progress, now_ms()
        )
        _read_engagements(job)
        facts = staging.facts()
        items, users = _import_entries(job)
        if not options.dry_run:
            _write_quarantine(job)
        if not facts.n_rows:
            raise DataError(_no_rows(job))
        counts = _write_engagements(job, facts)
        n_histories = 0 if options.dry_run else _load_features(job, facts)
    return ImportReport(
        n_new=counts.n_new,
        n_duplicates=counts.n_duplicates,
        n_known=counts.n_known,
        items=items,
        users=users,
        n_histories=n_histories,
        seconds=time.monotonic() - started_s,
        **_read_facts(job, facts),
    )


def _read_facts(job: _Import, facts: StagedFacts) -> dict[str, Any]:
    """What the report says of the files, whatever was done with them."""
    return {
        "source": str(job.options.source),
        "format": job.source.format,
        "dry_run": job.options.dry_run,
        "n_rows": job.n_rows,
        "n_users": facts.n_users,
        "n_items": facts.n_items,
        "kinds": facts.kinds,
        "time_units": dict(job.time_units),
        "first_ms": facts.first_ms,
        "last_ms": facts.last_ms,
        "quarantined": job.quarantine.counts,
        "examples": job.quarantine.examples,
        "columns": dict(job.source.engagements.mapping),
    }


def _read_engagements(job: _Import) -> None:
    files = job.source.engagements
    rules = RowRules(frozenset(files.mapping), job.source.kind, job.now_ms)
    first_sequence = bytes_before = 0
    for file in files.files:
        last_line = 0
        for batch in read_rows(file, files.mapping):
            last_line = max(last_line, _last_line(batch))
            checked = rules.check(job.staging.connection, batch.rows, first_sequence)
            is_good = pc.is_null(checked["reason"])
            good = checked.filter(is_good)
            job.staging.add(good)
            bad = [*batch.bad, *_refused(checked.filter(pc.invert(is_good)), batch)]
            job.refuse(file.path.name, bad)
            job.n_rows += good.num_rows + len(bad)
            for unit in pc.value_counts(good["unit"]).to_pylist():
                job.time_units[unit["values"]] += unit["counts"]
            job.progress("read", bytes_before + batch.bytes_read, files.size_bytes)
        first_sequence += last_line
        bytes_before += file.size_bytes
    if not job.n_rows:
        raise DataError(f"{job.options.source} has no rows, expected at least one engagement")


def _refused(checked: pa.Table, batch: RawBatch) -> Iterator[BadRow]:
    for row in checked.select([LINE, "reason", "user_id"]).to_pylist():
        raw = batch.raw(row[LINE])
        if raw.strip():  # a blank line is no row
            yield BadRow(row[LINE], row["reason"], raw, row["user_id"] or None)


def _last_line(batch: RawBatch) -> int:
    last = pc.max(batch.rows[LINE]).as_py() or 0
    return max([last, *(row.line for row in batch.bad)])


def _import_entries(job: _Import) -> tuple[EntryCounts | None, EntryCounts | None]:
    source, dry_run = job.source, job.options.dry_run
    items = users = None
    if source.items:
        items = import_items(job.lake, job.staging, source.items, job.now_ms, job.refuse, dry_run)
    if source.users:
        users = import_users(job.lake, job.staging, source.users, job.now_ms, job.refuse, dry_run)
    return items, users


def _write_quarantine(job: _Import) -> None:
    if not job.quarantine.counts:
        return
    table = job.lake.open("quarantine")
    table.attach(job.staging.connection, "known_rejects")
    query = """
        SELECT DISTINCT md5(concat_ws(':', source, line, reason, raw)) AS event_id, source, line,
            reason, raw, user_id, line AS sequence
        FROM rejected LEFT JOIN (SELECT source, line, min(user_id) AS user_id
            FROM rejected_users GROUP BY ALL) USING (source, line)
        WHERE event_id NOT IN (SELECT k.event_id FROM known_rejects k)"""
    batches = job.staging.connection.sql(query).to_arrow_reader(100_000)
    tables = (
        complete_rows(
            "quarantine",
            pa.Table.from_batches([batch]),
            "received_at_ms",
            received_at_ms=job.now_ms,
        )
        for batch in batches
    )
    append_import(job.lake, "quarantine", tables, table.mark(IMPORT_MARK), _note(job))


def _write_engagements(job: _Import, facts: StagedFacts) -> NewRows:
    table = job.lake.find("engagements")
    mark = table.mark(IMPORT_MARK) if table else None
    counts = NewRows()
    new_rows = job.staging.new_rows(_attach_known(job, table, facts), counts)
    if job.options.dry_run:
        for rows in new_rows:
            job.progress("compare", rows.num_rows, None)
    else:
        rows_to_write = _completed(job, new_rows, facts.n_rows)
        append_import(job.lake, "engagements", rows_to_write, mark, _note(job))
    return counts


def _completed(job: _Import, new_rows: Iterator[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    done = 0
    for rows in new_rows:
        done += rows.num_rows
        yield complete_rows(
            "engagements", rows, "timestamp_ms", received_at_ms=job.now_ms, origin="import"
        )
        job.progress("write", done, n_rows)


def _attach_known(job: _Import, table: LakeTable | None, facts: StagedFacts) -> str | None:
    if table is None or facts.first_ms is None or facts.last_ms is None:
        return None
    table.attach(job.staging.connection, _KNOWN_ROWS, _day(facts.first_ms), _day(facts.last_ms))
    return _KNOWN_ROWS


def _load_features(job: _Import, facts: StagedFacts) -> int:
    """Give the users of this import their newest engagements, whether they are new or not."""
    job.lake.open("engagements").attach(job.staging.connection, _KNOWN_ROWS)
    job.staging.connection.execute(
        f"CREATE OR REPLACE TEMP VIEW engagements_of_staged AS SELECT * FROM {_KNOWN_ROWS}"
        " SEMI JOIN staged USING (user_id)"
    )
    histories = imported_histories(
        job.staging.connection, "engagements_of_staged", job.settings.features.history_limit
    )

    def counted() -> Iterator[tuple[str, list[HistoryEvent]]]:
        for done, history in enumerate(histories, start=1):
            yield history
            if done % 500 == 1:
                job.progress("histories", done, facts.n_users)

    writer = open_feature_writer(job.settings)
    try:
        return load_histories(writer, counted(), job.settings).n_users
    finally:
        writer.close()


def _note(job: _Import) -> dict[str, object]:
    return {"import": job.options.source.name, "rows_read": job.n_rows}


def _no_rows(job: _Import) -> str:
    reasons = "\n".join(quarantine_lines(job.quarantine.counts, job.quarantine.examples))
    return (
        f"none of the {job.n_rows:,} rows of {job.options.source} can be used; columns read:"
        f" {', '.join(f'{k}={v}' for k, v in job.source.engagements.mapping.items())}; give others"
        f" with --map\n{reasons}"
    )


def _day(milliseconds: int) -> date:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).date()
