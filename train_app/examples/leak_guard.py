"""Whether a set of examples knows something that was not known at its moments; pure reading.

Looks at what was produced and not at how, so that it catches what nobody thought of.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import duckdb

from recsys.errors import DataRefused
from train_app.examples.example_schema import AS_OF_FEATURES, EXAMPLES, ORGANIC, RANDOM, SHOWN

MAX_AUC = 0.99
"""A feature that alone tells the labelled from the others better than this is no honest one."""
MIN_OF_EACH = 50
"""With fewer labelled or unlabelled examples chance alone may order them perfectly."""
MAX_ANSWER_MS = 60_000
"""The longest deadline of a request: its history was read at most so long after its moment."""
SAMPLED = 1_000_000
"""Examples, about, that features are tried on alone."""
_POPULATIONS = (
    ("shown and engaged with", f"_stage = '{SHOWN}'", "_is_labelled"),
    (
        "organic, among random ones,",
        f"_stage IN ('{ORGANIC}', '{RANDOM}')",
        f"_stage = '{ORGANIC}'",
    ),
)
_OTHER_TYPES = ("VARCHAR", "BLOB", "DATE", "TIME", "STRUCT", "MAP", "UUID")


@dataclass(frozen=True, slots=True)
class TimedFeature:
    """A column that was added to examples, and the columns that say how new what is in it is."""

    name: str
    known_ms: str
    """When the newest thing in the value became known."""
    event_ms: str | None = None
    """When the newest thing in the value happened; None where it did not happen to anybody."""


@dataclass(frozen=True, slots=True)
class Leak:
    """One way in which examples know too much."""

    name: str
    column: str
    n_found: int
    """Examples that have it; of a history moments, and 0 of what only shows in all together."""
    detail: str


@dataclass(frozen=True, slots=True)
class _Rule:
    """What no example may do: SQL that is true of those that do."""

    name: str
    column: str
    broken: str
    detail: str


def refuse_leaks(
    connection: duckdb.DuckDBPyConnection,
    examples: str,
    engagements: str,
    *,
    cutoff_ms: int,
    added: Sequence[TimedFeature] = (),
) -> None:
    """Stop where examples know what was not known at their moment.

    Raises:
        DataRefused: names every leak, the column it is in and how many examples have it.
    """
    leaks = find_leaks(connection, examples, engagements, cutoff_ms=cutoff_ms, added=added)
    if leaks:
        found = "; ".join(f"{leak.name} in {leak.column}: {leak.detail}" for leak in leaks)
        raise DataRefused(
            f"the examples would teach what was not known at their moments: {found}; no example"
            " was kept; correct how these columns are made"
        )


def find_leaks(
    connection: duckdb.DuckDBPyConnection,
    examples: str,
    engagements: str,
    *,
    cutoff_ms: int,
    added: Sequence[TimedFeature] = (),
) -> list[Leak]:
    """Every leak that can be seen in the produced rows.

    Args:
        examples: table or view with the columns of `EXAMPLES`, and those of `added`.
        engagements: table or view of all engagements they were made of: user_id, item_id,
            event_ms, received_ms, is_imported.
        cutoff_ms: the split; no label window may end after it.
        added: features beside those of the schema. A column that is neither is a leak itself:
            nobody can tell what it knows.
    """
    return [
        *_undeclared(connection, examples, added),
        *_broken(connection, examples, [*_late_features(added), *_label_rules(cutoff_ms)]),
        *_histories(connection, examples, engagements),
        *_too_good(connection, examples, added),
    ]


def _undeclared(
    connection: duckdb.DuckDBPyConnection, examples: str, added: Sequence[TimedFeature]
) -> Iterator[Leak]:
    declared = {*EXAMPLES.names}
    for feature in added:
        declared |= {feature.name, feature.known_ms, feature.event_ms or feature.name}
    for name in _types(connection, examples):
        if name not in declared:
            rows = connection.execute(f"SELECT count(*) FROM {examples}").fetchall()
            detail = "the column is not declared, so nothing says when its values were known"
            yield Leak("undeclared feature", name, int(rows[0][0]), detail)


def _late_features(added: Sequence[TimedFeature]) -> Iterator[_Rule]:
    groups = [
        TimedFeature(f"{group}_ features", f"{group}_known_ms", f"{group}_event_ms")
        for group in AS_OF_FEATURES
    ]
    for feature in [*groups, TimedFeature("known_ms", "known_ms"), *added]:
        yield _Rule(
            "late feature",
            feature.name,
            f'"{feature.known_ms}" > timestamp_ms',
            "examples have a value that became known after their moment",
        )
        if feature.event_ms is not None:
            yield _Rule(
                "feature of the moment itself",
                feature.name,
                f'"{feature.event_ms}" >= timestamp_ms',
                "examples have a value that holds what happened at their moment or after it; join"
                " with < and not with <=",
            )


def _label_rules(cutoff_ms: int) -> Iterator[_Rule]:
    some = "len(list_filter(labels, lambda label: {})) > 0"
    early = some.format("label.after_ms < 0")
    late = some.format("timestamp_ms + label.after_ms >= label_end_ms")
    end = f"label_end_ms > {int(cutoff_ms)}"
    yield _Rule("label before its moment", "labels", early, "examples")
    yield _Rule("label outside its window", "labels", late, "examples")
    window = f"examples have a label window that ends after the cutoff {cutoff_ms}"
    yield _Rule("open label window", "label_end_ms", end, window)


def _broken(
    connection: duckdb.DuckDBPyConnection, examples: str, rules: Sequence[_Rule]
) -> Iterator[Leak]:
    """The rules that some example breaks, all counted in one pass."""
    counts = ", ".join(f"count(*) FILTER ({rule.broken})" for rule in rules)
    found = connection.execute(f"SELECT {counts} FROM {examples}").fetchall()[0]
    for rule, n in zip(rules, found, strict=True):
        if n:
            yield Leak(rule.name, rule.column, int(n), f"{n} {rule.detail}")


def _histories(
    connection: duckdb.DuckDBPyConnection, examples: str, engagements: str
) -> Iterator[Leak]:
    """Items in a history that the user is known to have engaged with only later.

    A logged history was read while the request was answered, so what came meanwhile may be in it;
    what the answer itself led to may not. An item without any engagement in the lake proves
    nothing: its record may have been lost.
    """
    rows = connection.execute(f"""
        WITH firsts AS (
            SELECT user_id, item_id, min(received_ms) AS received_ms,
                min(greatest(event_ms + 1, received_ms)) AS live_ms,
                min(event_ms + 1) FILTER (is_imported) AS import_ms
            FROM {engagements} GROUP BY user_id, item_id),
        histories AS (
            SELECT *, unnest(list_distinct(history_items)) AS item_id FROM (
                SELECT moment_id, history_items, any_value(user_id) AS user_id,
                    any_value(timestamp_ms) AS timestamp_ms, any_value(is_imported) AS is_imported,
                    any_value(history_is_logged) AS history_is_logged,
                    coalesce(list(item_id) FILTER (len(labels) > 0), []) AS labelled
                FROM {examples} GROUP BY moment_id, history_items))
        SELECT count(DISTINCT moment_id) FROM histories JOIN firsts USING (user_id, item_id)
        WHERE CASE
            WHEN history_is_logged THEN received_ms > timestamp_ms + {MAX_ANSWER_MS}
                OR (received_ms > timestamp_ms AND list_contains(labelled, item_id))
            WHEN is_imported THEN coalesce(import_ms > timestamp_ms, true)
            ELSE live_ms > timestamp_ms END""").fetchall()
    if n := int(rows[0][0]):
        detail = f"{n} moments have an item that their user is known to have met only later"
        yield Leak("history of later", "history_items", n, detail)


def _too_good(
    connection: duckdb.DuckDBPyConnection, examples: str, added: Sequence[TimedFeature]
) -> Iterator[Leak]:
    """Features made by joins that order the labelled before the others; of a sample of rows."""
    types = _types(connection, examples)
    wanted = [name for group in AS_OF_FEATURES.values() for name in group]
    wanted += [feature.name for feature in added]
    names = [
        name
        for name in wanted
        if not types[name].startswith(_OTHER_TYPES) and not types[name].endswith("]")
    ]
    columns = ", ".join(f'"{name}"' for name in names)
    connection.execute(f"""
        CREATE OR REPLACE TEMP TABLE judged_features AS
        SELECT {columns}, stage AS _stage, len(labels) > 0 AS _is_labelled FROM {examples}
        WHERE md5_number_lower(example_id) % greatest(1, (SELECT count(*) FROM {examples})
            // {SAMPLED}) = 0""")
    for name in names:
        for what, among, is_positive in _POPULATIONS:
            auc = auc_of(connection, "judged_features", name, among, is_positive)
            if auc is not None and abs(auc - 0.5) > MAX_AUC - 0.5:
                detail = f"it alone tells what was {what} with an AUC of {auc:.3f}"
                yield Leak("too good a feature", name, 0, detail)


def auc_of(
    connection: duckdb.DuckDBPyConnection, examples: str, name: str, among: str, is_positive: str
) -> float | None:
    """The chance that a positive has a greater value than a negative, ties half; null is least.

    None where there are too few of either.
    """
    rows = connection.execute(f"""
        WITH valued AS (
            SELECT "{name}" AS value, count(*) FILTER ({is_positive}) AS positives,
                count(*) FILTER (NOT ({is_positive})) AS negatives
            FROM {examples} WHERE {among} GROUP BY value),
        ranked AS (
            SELECT positives, negatives, sum(negatives) OVER (ORDER BY value NULLS FIRST
                ROWS UNBOUNDED PRECEDING) - negatives / 2.0 AS below FROM valued)
        SELECT sum(positives), sum(negatives), sum(positives::DOUBLE * below) FROM ranked
        """).fetchall()
    n_positives, n_negatives, n_ordered = rows[0]
    if min(n_positives or 0, n_negatives or 0) < MIN_OF_EACH:
        return None
    return float(n_ordered) / float(n_positives) / float(n_negatives)


def _types(connection: duckdb.DuckDBPyConnection, examples: str) -> dict[str, str]:
    described = connection.execute(f"DESCRIBE SELECT * FROM {examples}").fetchall()
    return {row[0]: str(row[1]) for row in described}
