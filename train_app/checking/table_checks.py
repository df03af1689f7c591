"""Whether the lake's tables hold what their columns promise: schema, nulls, ranges, times, ids."""

from __future__ import annotations

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
    "catalogue": ("event_id", "item_id", "timestamp_ms"),
}
"""A null, or an empty text, in one of these makes a row useless."""
FUTURE_ERROR_SHARE = 0.01
"""More engagements of the future than this would be most of what is held out."""
PROPENSITY_NOISE = 1e-6
_TEXTS = frozenset({"event_id", "kind", "user_id", "item_id", "request_id", "bundle_id"})
_RANGES = {
    "engagements": {
        "ids longer than 256 bytes": (
            f"greatest(strlen(user_id), strlen(item_id), strlen(event_id)) > {MAX_ID_BYTES}"
        ),
        "negative positions": "position < 0",
        "values that are no finite number": "NOT isfinite(value)",
    },
    "impressions": {
        "propensities outside (0, 1]": (
            "len(list_filter(slate, lambda s: NOT coalesce(s.propensity > 0 AND s.propensity <="
            f" {1 + PROPENSITY_NOISE}, false))) > 0"
        ),
        "scores that are no finite number": (
            "len(list_filter(slate, lambda s: NOT coalesce(isfinite(s.score), false))) > 0"
        ),
        "shown items without an id": (
            "len(list_filter(slate, lambda s: coalesce(s.item_id, '') = '')) > 0"
        ),
        "coverages outside 0 to 1": "NOT coverage BETWEEN 0 AND 1",
        "negative history versions": "history_version < 0",
    },
    "outcomes": {
        "statuses that are no HTTP status": "NOT status BETWEEN 100 AND 599",
        "latencies below 0": "latency_ms < 0 OR NOT isfinite(latency_ms)",
    },
    "catalogue": {"ids longer than 256 bytes": f"strlen(item_id) > {MAX_ID_BYTES}"},
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
        counts = views.row(
            "SELECT count(*) AS rows, "
            + ", ".join(
                f"count(*) FILTER ({_is_empty(one)}) AS {one}" for one in REQUIRED_COLUMNS[name]
            )
            + f" FROM {name}"
        )
        n_rows = figures[f"{name}.rows"] = counts.pop("rows")
        empty = {column: n for column, n in counts.items() if n}
        figures.update({f"{name}.{column}": n for column, n in empty.items()})
        if empty:
            listed = ", ".join(f"{n:,} without {column}" for column, n in empty.items())
            findings.append(
                error(
                    f"of {n_rows:,} rows of {name} {listed}; find what wrote them (_delta_log says"
                    " when) and restore the version before"
                )
            )
    return CheckResult("nulls", tuple(findings), figures, "every row has what it must have")


def check_ranges(views: LakeViews) -> CheckResult:
    """Whether numbers lie where they can lie."""
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    for name, rules in _RANGES.items():
        counted = ", ".join(f"count(*) FILTER ({rule}) AS '{what}'" for what, rule in rules.items())
        for what, n in views.row(f"SELECT {counted} FROM {name}").items():
            if n:
                figures[f"{name}: {what}"] = n
                findings.append(
                    error(
                        f"{n:,} rows of {name} have {what}; find what wrote them and restore the"
                        " version before"
                    )
                )
    return CheckResult("ranges", tuple(findings), figures, "every number is where it can be")


def check_times(views: LakeViews) -> CheckResult:
    """Whether times are possible, and every row lies in the folder of its day."""
    findings: list[Finding] = []
    figures: dict[str, Figure] = {}
    for name in CHECKED_TABLES:
        counts = views.row(f"""
            SELECT count(*) AS n,
                count(*) FILTER (timestamp_ms < {MIN_TIMESTAMP_MS}) AS ancient,
                count(*) FILTER (timestamp_ms > {views.now_ms + MAX_FUTURE_MS}) AS future,
                count(*) FILTER (event_date <> epoch_ms(timestamp_ms)::DATE) AS misplaced,
                max(timestamp_ms) AS newest
            FROM {name}""")
        figures.update({f"{name}.{k}": counts[k] for k in ("ancient", "future", "misplaced")})
        if counts["future"]:
            newest = datetime.fromtimestamp(counts["newest"] / 1000, UTC)
            findings += graded(
                counts["future"],
                counts["n"],
                0.0,
                FUTURE_ERROR_SHARE,
                f"{counts['future']:,} rows of {name} lie in the future, the newest at"
                f" {newest:%Y-%m-%d %H:%M} UTC; check the clock of this machine and the unit of the"
                " timestamps, or train with --until",
            )
        if counts["ancient"]:
            findings.append(
                error(
                    f"{counts['ancient']:,} rows of {name} are from before 1990; the unit of their"
                    " time was mistaken: import them again"
                )
            )
        if counts["misplaced"]:
            findings.append(
                error(
                    f"{counts['misplaced']:,} rows of {name} lie under another day than their own,"
                    " so that a read of some days misses them; write them again"
                )
            )
    return CheckResult("times", tuple(findings), figures, "times are possible")


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
