"""Whether the lake's tables hold what their columns promise: schema, nulls, ranges, times, ids."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from deltalake import Schema

from recsys.events import MAX_FUTURE_MS, MAX_ID_BYTES, MIN_TIMESTAMP_MS
from train_app.checking.check_report import CheckResult, Figure, Finding, error, graded, warning
from train_app.checking.lake_views import CHECKED_TABLES, LakeViews
from train_app.lake.lake_schema import TABLES

REQUIRED_COLUMNS = {
    "engagements": ("event_id", "kind", "user_id", "item_id", "timestamp_ms", "received_at_ms"),
    "impressions": ("event_id", "request_id", "user_id", "timestamp_ms", "bundle_id", "slate"),
    "outcomes": ("event_id", "request_id", "timestamp_ms", "status"),
    "shadows": ("event_id", "request_id", "timestamp_ms", "shadow_id", "bundle_id", "status"),
    "catalogue": ("event_id", "item_id", "timestamp_ms"),
}
"""A null, or an empty text, in one of these makes a row useless."""
PROPENSITY_NOISE = 1e-6
_RESTORE = "find what wrote them (_delta_log says when) and restore the version before"
_TIME_FAULTS = {
    "ancient": "are from before 1990; the unit of their time was mistaken: import them again",
    "misplaced": "lie under another day than their own, so that a read of some days misses them;"
    " write them again",
}
_TEXTS = frozenset(
    {"event_id", "kind", "user_id", "item_id", "request_id", "bundle_id", "shadow_id"}
)


def _not_finite(number: str) -> str:
    """SQL of a number that is there and none to compute with."""
    return f"NOT isfinite({number})"


def _too_long(*names: str) -> str:
    """SQL of ids of which one is longer than an event may have."""
    return f"greatest({', '.join(f'strlen({name})' for name in names)}) > {MAX_ID_BYTES}"


def _outside(number: str, low: float, high: float) -> str:
    """SQL of a number that is there and not between two others, both of which it may be."""
    return f"NOT {number} BETWEEN {low} AND {high}"


def _any_shown(is_right: str) -> str:
    """SQL of slates with an item `s` of which a condition does not hold, a null's among them."""
    return f"len(list_filter(slate, lambda s: NOT coalesce({is_right}, false))) > 0"


_LONG_IDS = f"ids longer than {MAX_ID_BYTES} bytes"
_RANGES = {
    "engagements": {
        _LONG_IDS: _too_long("user_id", "item_id", "event_id"),
        "negative positions": "position < 0",
        "values that are no finite number": _not_finite("value"),
    },
    "impressions": {
        "propensities outside (0, 1]": _any_shown(
            f"s.propensity > 0 AND s.propensity <= {1 + PROPENSITY_NOISE}"
        ),
        "scores that are no finite number": _any_shown("isfinite(s.score)"),
        "shown items without an id": _any_shown("s.item_id <> ''"),
        "coverages outside 0 to 1": _outside("coverage", 0, 1),
        "negative history versions": "history_version < 0",
        "fewer dropped candidates than were drawn of them": "n_dropped < len(dropped)",
    },
    "outcomes": {
        "statuses that are no HTTP status": _outside("status", 100, 599),
        "latencies below 0": f"latency_ms < 0 OR {_not_finite('latency_ms')}",
    },
    "shadows": {
        "statuses that are no HTTP status": _outside("status", 100, 599),
        "latencies below 0": "least(live_ms, shadow_ms) < 0 OR NOT isfinite(live_ms + shadow_ms)",
        "items without their propensity": "len(items) <> len(propensities)",
    },
    "catalogue": {_LONG_IDS: _too_long("item_id")},
}


def check_schema(views: LakeViews) -> CheckResult:
    """Whether every table has the documented columns with their types."""
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    for name, table in views.tables.items():
        if table is None:
            continue
        expected = {one.name: one.type for one in Schema.from_arrow(TABLES[name]).fields}
        found = {one.name: one.type for one in table.delta.schema().fields}
        figures[f"{name}.version"] = table.version
        missing = [one for one in REQUIRED_COLUMNS[name] if one not in found]
        wrong = [
            f"{one} is {found[one]}, expected {expected[one]}"
            for one in expected
            if one in found and found[one] != expected[one]
        ]
        if missing:
            findings.append(
                error(f"table {name} lacks {', '.join(missing)}; restore or import it again")
            )
        if wrong:
            findings.append(
                error(f"table {name}: {'; '.join(wrong)}; rewrite it with the documented types")
            )
        extra = sorted(found.keys() - expected.keys())
        if extra:
            findings.append(
                warning(f"table {name} has columns that nothing reads: {', '.join(extra)}")
            )
    return CheckResult("schema", tuple(findings), figures, "columns and types as documented")


def check_nulls(views: LakeViews) -> CheckResult:
    """Whether what every row must have is there."""
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    for name in CHECKED_TABLES:
        n_rows, empty = _broken(
            views, name, {one: _is_empty(one) for one in REQUIRED_COLUMNS[name]}
        )
        figures |= {f"{name}.rows": n_rows, **{f"{name}.{one}": n for one, n in empty.items()}}
        if empty:
            listed = ", ".join(f"{n:,} without {column}" for column, n in empty.items())
            findings.append(error(f"of {n_rows:,} rows of {name} {listed}; {_RESTORE}"))
    return CheckResult("nulls", tuple(findings), figures, "every row has what it must have")


def check_ranges(views: LakeViews) -> CheckResult:
    """Whether numbers lie where they can lie."""
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    for name, rules in _RANGES.items():
        for what, n in _broken(views, name, rules)[1].items():
            figures[f"{name}: {what}"] = n
            findings.append(error(f"{n:,} rows of {name} have {what}; {_RESTORE}"))
    return CheckResult("ranges", tuple(findings), figures, "every number is where it can be")


def check_times(views: LakeViews) -> CheckResult:
    """Whether times are possible, and every row lies in the folder of its day."""
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    rules = {
        "ancient": f"timestamp_ms < {MIN_TIMESTAMP_MS}",
        "future": f"timestamp_ms > {views.now_ms + MAX_FUTURE_MS}",
        "misplaced": "event_date <> epoch_ms(timestamp_ms)::DATE",
    }
    for name in CHECKED_TABLES:
        n_rows, counts = _broken(views, name, rules)
        figures |= {f"{name}.{what}": counts.get(what, 0) for what in rules}
        if "future" in counts:
            findings += _of_the_future(views, name, counts["future"], n_rows)
        findings += [
            error(f"{counts[what]:,} rows of {name} {_TIME_FAULTS[what]}")
            for what in _TIME_FAULTS
            if what in counts
        ]
    return CheckResult("times", tuple(findings), figures, "times are possible")


def _of_the_future(views: LakeViews, name: str, n: int, n_rows: int) -> list[Finding]:
    newest_ms = views.row(f"SELECT max(timestamp_ms) AS at FROM {name}")["at"]
    return graded(
        n,
        n_rows,
        0.0,
        views.settings.checks.future_share,
        f"{n:,} rows of {name} lie in the future, the newest at"
        f" {datetime.fromtimestamp(newest_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC; check the clock of"
        " this machine and the unit of the timestamps, or train with --until",
    )


def _broken(views: LakeViews, name: str, rules: Mapping[str, str]) -> tuple[int, dict[str, int]]:
    """The rows of a table, and how many break each rule, of the rules that any row breaks.

    Args:
        rules: SQL of the rows that break it, by the rule's name.
    """
    columns = ", ".join(f"count(*) FILTER ({rule})" for rule in rules.values())
    n_rows, *counts = views.connection.sql(f"SELECT count(*), {columns} FROM {name}").fetchall()[0]
    return int(n_rows), {what: int(n) for what, n in zip(rules, counts, strict=True) if n}


def check_duplicates(views: LakeViews) -> CheckResult:
    """Whether an event, or a place in the log, is there twice.

    An id that comes again after the window within which it counts once is another event.
    """
    window_ms = views.settings.events.dedup_window_s * 1000
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    for name in CHECKED_TABLES:
        at = "coalesce(received_at_ms, timestamp_ms)" if name == "engagements" else "timestamp_ms"
        ids = views.row(f"""
            SELECT coalesce(sum(n - 1), 0)::BIGINT AS n, min(event_id) AS example FROM (
                SELECT event_id, count(*) AS n FROM {name} WHERE event_id IS NOT NULL
                GROUP BY event_id HAVING n > 1 AND max({at}) - min({at}) <= {window_ms})""")
        places = views.row(f"""
            SELECT coalesce(sum(n - 1), 0)::BIGINT AS n FROM (
                SELECT count(*) AS n FROM {name} WHERE log_offset IS NOT NULL
                GROUP BY log_partition, log_offset HAVING n > 1)""")
        figures[f"{name}.repeated_ids"], figures[f"{name}.repeated_places"] = ids["n"], places["n"]
        if ids["n"]:
            findings.append(
                error(
                    f"{ids['n']:,} rows of {name} repeat an event id, {ids['example']} for one;"
                    " see what 'cluster lake check' says, and restore the version before"
                )
            )
        if places["n"]:
            findings.append(
                error(
                    f"{places['n']:,} rows of {name} repeat a place in the log: something else than"
                    " the archiver wrote them; restore the version before"
                )
            )
    return CheckResult("duplicates", tuple(findings), figures, "every event is there once")


def _is_empty(column: str) -> str:
    return f"{column} IS NULL OR {column} = ''" if column in _TEXTS else f"{column} IS NULL"
