"""Makes a set of examples from the lake; the only writer of what lies under its directory.

Stages, joins part by part, checks for leaks and shows the result by one rename: a reader never
sees a set that is half made or that was refused.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from recsys.errors import DataError, StoreError
from recsys.settings import Settings
from train_app.examples.example_inputs import (
    StagedParts,
    stage_engagements,
    stage_impressions,
    stage_late_events,
    stage_pools,
)
from train_app.examples.example_parts import make_item_part, make_user_part
from train_app.examples.example_report import (
    REPORT_FILE,
    ExampleReport,
    count_examples,
    sort_counts,
)
from train_app.examples.example_rules import (
    DEFAULT_OPTIONS,
    ExampleOptions,
    ExampleRules,
    rules_of,
)
from train_app.examples.join_database import open_joins, sql_text
from train_app.examples.leak_guard import refuse_leaks
from train_app.importing.staging import scratch_folder
from train_app.lake.lake_schema import TABLES
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.run_directory import one_at_a_time

_SLATE = 25
"""Items per impression, as a guess of its weight."""

VIEWS = {
    "engagements": "all_engagements",
    "impressions": "all_impressions",
    "catalogue": "all_entries",
}
"""The lake tables that are read, and their names in DuckDB."""

MakeParts = Callable[[duckdb.DuckDBPyConnection, "ExampleSources"], Counter[str]]


@dataclass(frozen=True, slots=True)
class ExampleSources:
    """What one set is made of and where it is made."""

    tables: Mapping[str, LakeTable]
    """By name; those that nothing was ever written to are missing."""
    rules: ExampleRules
    parts: StagedParts
    out: Path


def make_parts_here(connection: duckdb.DuckDBPyConnection, sources: ExampleSources) -> Counter[str]:
    """Stage the lake and join part by part, in this process and its memory limit."""
    parts, rules = sources.parts, sources.rules
    stage_late_events(connection, parts, VIEWS["engagements"], rules.lateness_ms)
    stage_engagements(connection, parts, VIEWS["engagements"], rules)
    stage_impressions(connection, parts, VIEWS["impressions"], rules)
    stage_pools(connection, parts, VIEWS["catalogue"], rules)
    made: Counter[str] = Counter()
    for part in range(rules.n_parts):
        made.update(make_user_part(connection, parts, part, rules))
    for part in range(rules.n_parts):
        made.update(make_item_part(connection, parts, part, rules, sources.out))
    return made


def make_examples(
    settings: Settings,
    *,
    until_ms: int | None,
    out: Path,
    options: ExampleOptions = DEFAULT_OPTIONS,
    make_parts: MakeParts = make_parts_here,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> ExampleReport:
    """Write the examples whose label window is closed before a cutoff.

    Args:
        until_ms: the split's cutoff: nothing of this moment or later is read; None reads all.
        out: directory of the set; an earlier set there is replaced once the new one is whole.
        make_parts: how the parts are made; one after the other in this process by default.

    Raises:
        DataError: the lake has no engagements before the cutoff, or `out` is something else.
        DataRefused: the examples leak; `out` is as it was.
        StoreError: the lake cannot be read, or the disk is full.
    """
    started_s = time.monotonic()
    _refuse_other(out)
    making = out.with_name(f".{out.name}.making")
    lake = Lake(settings.lake_location)
    scratch = settings.data_dir / "tmp"
    try:
        with ExitStack() as stack:
            stack.enter_context(_only_maker(out, making))
            folder = stack.enter_context(scratch_folder(scratch))
            connection = stack.enter_context(open_joins(folder, settings.train))
            tables = _attach(connection, lake)
            until = now_ms() if until_ms is None else until_ms
            sources = _sources(connection, tables, settings, options, until, folder, making)
            made = make_parts(connection, sources)
            report = _judge(connection, sources, made)
            report.seconds = round(time.monotonic() - started_s, 3)
            report.lake_versions = {name: table.version for name, table in tables.items()}
            report.location = str(out)
            _show(sources.out, out, report)
    except (OSError, duckdb.Error) as error:
        raise StoreError(
            f"could not make examples of the lake {lake.location}: {error}; check that its files"
            f" are whole and that {scratch} and {out} have space"
        ) from error
    return report


@contextmanager
def _only_maker(out: Path, making: Path) -> Generator[None]:
    """An empty folder to make the set in, for one process at a time; gone in the end."""
    with one_at_a_time(out.with_name(f".{out.name}.lock"), "the making of these examples"):
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        try:
            yield
        finally:
            shutil.rmtree(making, ignore_errors=True)


def _attach(connection: duckdb.DuckDBPyConnection, lake: Lake) -> dict[str, LakeTable]:
    """Views of the lake tables that are read, at their newest versions; a missing one is empty."""
    found: dict[str, LakeTable] = {}
    for name, view in VIEWS.items():
        table = lake.find(name)
        if table is None:
            connection.register(view, TABLES[name].empty_table())
        else:
            table.attach(connection, view)
            found[name] = table
    return found


def _sources(
    connection: duckdb.DuckDBPyConnection,
    tables: dict[str, LakeTable],
    settings: Settings,
    options: ExampleOptions,
    until_ms: int,
    folder: Path,
    out: Path,
) -> ExampleSources:
    before = f"timestamp_ms < {int(until_ms)}"
    n_engagements, newest_import_ms, newest_received_ms = connection.sql(f"""
        SELECT count(*), max(timestamp_ms) FILTER (origin = 'import'),
            max(coalesce(received_at_ms, timestamp_ms)) FILTER (origin <> 'import')
        FROM {VIEWS["engagements"]} WHERE {before}""").fetchall()[0]
    n_impressions, newest_shown_ms = connection.sql(
        f"SELECT count(*), max(timestamp_ms) FROM {VIEWS['impressions']} WHERE {before}"
    ).fetchall()[0]
    if not n_engagements:
        raise DataError(
            f"the lake {settings.lake_location} has no engagements before {until_ms} ms, expected"
            " some to label examples with; run 'cluster import SOURCE' first"
        )
    rules = rules_of(
        settings,
        options,
        until_ms=until_ms,
        newest_live_ms=max(newest_received_ms or 0, newest_shown_ms or 0),
        newest_import_ms=newest_import_ms or 0,
        n_rows=n_engagements * (2 + options.n_random) + n_impressions * _SLATE,
    )
    return ExampleSources(tables, rules, StagedParts(folder / "staged"), out)


def _judge(
    connection: duckdb.DuckDBPyConnection, sources: ExampleSources, made: Counter[str]
) -> ExampleReport:
    """Refuse what leaks; count the rest."""
    rules, parts = sources.rules, sources.parts
    report = ExampleReport(
        rules.until_ms, rules.closed_live_ms, rules.label_window_ms, rules.n_user_buckets
    )
    sort_counts(report, made, rules.with_organic)
    if any(sources.out.rglob("*.parquet")):
        files = sql_text(sources.out / "*" / "*" / "*.parquet")
        connection.execute(
            "CREATE OR REPLACE TEMP VIEW examples AS SELECT * FROM"
            f" read_parquet({files}, hive_partitioning = true)"
        )
        refuse_leaks(connection, "examples", f"({parts.engagements()})", cutoff_ms=rules.until_ms)
        count_examples(connection, "examples", report)
        _refuse_doubled(connection, report.n_examples)
    return report


def _refuse_doubled(connection: duckdb.DuckDBPyConnection, n_examples: int) -> None:
    """A part that was made twice, or an item twice in one slate, would double examples."""
    rows = connection.sql("SELECT count(DISTINCT example_id) FROM examples").fetchall()
    n_doubled = n_examples - int(rows[0][0])
    if n_doubled:
        raise StoreError(
            f"{n_doubled} examples came out twice, expected each once; nothing was kept; look for"
            " impressions that show an item twice, then make the examples again"
        )


def _refuse_other(out: Path) -> None:
    """Only an earlier set of examples may be replaced."""
    if out.exists() and not (out / REPORT_FILE).is_file() and any(out.iterdir()):
        raise DataError(
            f"{out} is not empty and not a set of examples, expected a new directory or an earlier"
            " set; choose another place"
        )


def _show(made: Path, out: Path, report: ExampleReport) -> None:
    """Put the finished set where it belongs, in place of an earlier one."""
    (made / REPORT_FILE).write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    earlier = made.with_name(f"{made.name}.earlier")
    shutil.rmtree(earlier, ignore_errors=True)
    if out.exists():
        out.rename(earlier)
    made.rename(out)
    shutil.rmtree(earlier, ignore_errors=True)
