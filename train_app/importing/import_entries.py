"""Imports files of items and of users: the lake's `catalogue` and `users` tables.

A row that says what the lake already says changes nothing, and an item that was deleted stays so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from recsys.events import MAX_FUTURE_MS, MAX_ID_BYTES
from train_app.importing.import_report import EntryCounts
from train_app.importing.raw_batch import LINE, BadRow
from train_app.importing.sources import MappedFiles, read_rows
from train_app.importing.staging import Staging
from train_app.lake.lake_rows import IMPORT_MARK, append_import, complete_rows
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake

_NO_CATEGORY = "(no genres listed)"


@dataclass(frozen=True, slots=True)
class _EntryTable:
    """How one table of entries is filled: its key, and its content as SQL over the file's text."""

    name: str
    key: str
    content: dict[str, str]


def latest_entries(table: str, key: str) -> str:
    """SQL of the rows in force of a table of entries: of every key, the newest."""
    return (
        f"SELECT * FROM {table} QUALIFY row_number() OVER"
        f" (PARTITION BY {key} ORDER BY timestamp_ms DESC, sequence DESC) = 1"
    )


def import_items(
    lake: Lake,
    staging: Staging,
    files: MappedFiles,
    now_ms: int,
    refuse: Callable[[str, list[BadRow]], None],
    dry_run: bool,
) -> EntryCounts:
    """Put the items of a file into the catalogue; bad rows go to `refuse`."""
    has = files.mapping
    categories = f"""list_filter(list_transform(
        CASE WHEN contains(categories, '|') THEN string_split(categories, '|')
            ELSE string_split(categories, ',') END,
        lambda part: trim(part)), lambda part: part <> '' AND part <> '{_NO_CATEGORY}')"""
    if files.flags:
        marked = ", ".join(f"CASE WHEN {_name(n)} = '1' THEN {_text(n)} END" for n in files.flags)
        categories = f"list_filter([{marked}], lambda part: part IS NOT NULL)"
    elif "categories" not in has:
        categories = "CAST([] AS VARCHAR[])"
    content = {
        "title": "coalesce(trim(title), '')" if "title" in has else "''",
        "categories": f"coalesce({categories}, CAST([] AS VARCHAR[]))",
        "creator": "coalesce(trim(creator), '')" if "creator" in has else "''",
        "created_ms": _created(now_ms) if "created" in has else "CAST(NULL AS BIGINT)",
    }
    wanted = {**files.mapping, **{flag: flag for flag in files.flags}}
    entries = _EntryTable("catalogue", "item_id", content)
    return _import(lake, staging, files, wanted, entries, now_ms, refuse, dry_run)


def import_users(
    lake: Lake,
    staging: Staging,
    files: MappedFiles,
    now_ms: int,
    refuse: Callable[[str, list[BadRow]], None],
    dry_run: bool,
) -> EntryCounts:
    """Keep the users of a file with their other columns as attributes; bad rows to `refuse`."""
    key = files.mapping["user_id"]
    names = [column for column in files.files[0].columns if column != key]
    wanted = {"user_id": key, **{f"attribute {name}": name for name in names}}
    pairs = ", ".join(f"{_text(name)}: {_name(f'attribute {name}')}" for name in names)
    content = {"attributes": f"CAST(MAP {{{pairs}}} AS MAP(VARCHAR, VARCHAR))"}
    entries = _EntryTable("users", "user_id", content)
    return _import(lake, staging, files, wanted, entries, now_ms, refuse, dry_run)


def _import(
    lake: Lake,
    staging: Staging,
    files: MappedFiles,
    wanted: dict[str, str],
    entries: _EntryTable,
    now_ms: int,
    refuse: Callable[[str, list[BadRow]], None],
    dry_run: bool,
) -> EntryCounts:
    n_rows = _stage(staging, files, wanted, entries, refuse)
    table = lake.find(entries.name)
    mark = table.mark(IMPORT_MARK) if table else None
    connection = staging.connection
    if table:
        table.attach(connection, "lake_entries")
    else:
        connection.register("lake_entries", TABLES[entries.name].empty_table())
    connection.execute(
        f"CREATE OR REPLACE TABLE known_entries AS {latest_entries('lake_entries', entries.key)}"
    )
    deleted = "k.deleted" if entries.name == "catalogue" else "false"
    connection.execute(
        f"""CREATE OR REPLACE TABLE compared AS
        SELECT e.*, coalesce({deleted}, false) AS stays_deleted,
            k.{entries.key} IS NOT NULL AND {_digest(entries, "k")} = {_digest(entries, "e")}
            AS is_known
        FROM entries e LEFT JOIN known_entries k USING ({entries.key})"""
    )
    counted = connection.sql(
        "SELECT count(*) FILTER (is_known AND NOT stays_deleted), count(*) FILTER (stays_deleted)"
        " FROM compared"
    ).fetchall()[0]
    fresh = connection.sql(
        f"""SELECT md5(concat({entries.key}, {_digest(entries, "c")}, {now_ms})) AS event_id,
            {entries.key}, {", ".join(entries.content)}, sequence
        FROM compared c WHERE NOT is_known AND NOT stays_deleted ORDER BY sequence"""
    ).to_arrow_table()
    if fresh.num_rows and not dry_run:
        rows = complete_rows(
            entries.name, fresh, "timestamp_ms", timestamp_ms=now_ms, deleted=False
        )
        append_import(lake, entries.name, [rows], mark, {"import": files.files[0].path.name})
    return EntryCounts(n_rows, fresh.num_rows, *counted)


def _stage(
    staging: Staging,
    files: MappedFiles,
    wanted: dict[str, str],
    entries: _EntryTable,
    refuse: Callable[[str, list[BadRow]], None],
) -> int:
    """Fill the table `entries` with the file's rows, of every key the last; the rows read."""
    connection = staging.connection
    columns = ", ".join(f"{sql} AS {name}" for name, sql in entries.content.items())
    key = entries.key
    query = f"SELECT {key}, {columns}, {LINE} AS sequence FROM raw_entries"
    n_rows, created = 0, False
    for file in files.files:
        for batch in read_rows(file, wanted):
            bad = list(batch.bad)
            lengths = pc.binary_length(batch.rows[key]).fill_null(0).to_numpy()
            lines = batch.rows[LINE].to_numpy()
            for line in lines[(lengths == 0) | (lengths > MAX_ID_BYTES)].tolist():
                raw = batch.raw(line)
                if raw.strip():
                    reason = f"{key} is empty or longer than {MAX_ID_BYTES} bytes"
                    bad.append(BadRow(line, reason, raw))
            refuse(file.path.name, bad)
            keep = pa.array((lengths > 0) & (lengths <= MAX_ID_BYTES))
            rows = batch.rows.filter(keep)
            n_rows += rows.num_rows + len(bad)
            connection.register("raw_entries", rows)
            verb = "INSERT INTO" if created else "CREATE OR REPLACE TABLE"
            verb += " read_entries" + ("" if created else " AS")
            connection.execute(f"{verb} {query}")
            created = True
            connection.unregister("raw_entries")
    if not created:
        return 0
    connection.execute(
        "CREATE OR REPLACE TABLE entries AS SELECT * FROM read_entries QUALIFY"
        f" row_number() OVER (PARTITION BY {key} ORDER BY sequence DESC) = 1"
    )
    return n_rows


def _digest(entries: _EntryTable, alias: str) -> str:
    """SQL of a text that is equal for equal content."""
    parts = ", ".join(f"coalesce(md5({alias}.{name}::VARCHAR), '-')" for name in entries.content)
    return f"concat({parts})"


def _created(now_ms: int) -> str:
    """SQL of the column `created` in milliseconds: a date, or a number of seconds or more."""
    high = now_ms + MAX_FUTURE_MS
    number = "TRY_CAST(trim(created) AS DOUBLE)"
    return f"""CAST(CASE WHEN {number} IS NULL
            THEN epoch_ms(TRY_CAST(trim(created) AS TIMESTAMPTZ))
        WHEN abs({number}) <= {high / 1000} THEN {number} * 1000
        WHEN abs({number}) <= {high} THEN {number}
        WHEN abs({number}) <= {high * 1000} THEN {number} / 1000 END AS BIGINT)"""


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
