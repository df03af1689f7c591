"""What a set of examples holds and what was left out of it, counted, for a person and a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

import duckdb

from train_app.examples.labelled_impressions import (
    BEFORE_IMPRESSION,
    BY_REQUEST,
    BY_USER_ITEM,
    ORGANIC_FATES,
)

REPORT_FILE = "_report.json"
"""Beside the data; readers of a directory of Parquet skip names that begin like this."""

FATES = (BY_REQUEST, BY_USER_ITEM, *ORGANIC_FATES, BEFORE_IMPRESSION)
_LEFT_OUT = {
    "impressions_window_open": "impressions whose label window ends after the data or the cutoff",
    "organic_window_open": "likewise, visits to items no slate led to",
    "engagements_before_impression": "engagements with a request that is later than themselves",
    "engagements_after_their_visit": "engagements after the label window of their visit",
    "engagements_not_used": "engagements that no slate led to",
    "events_repeated": "events that the lake has twice, longer apart than it looks back",
    "unshown_engaged": "unshown items the user engaged with all the same",
    "dropped_engaged": "likewise, retrieved items that were not scored",
    "random_not_negative": "draws the user engaged with, or the moment had already",
    "random_deleted": "draws of items that were deleted",
}


@dataclass
class ExampleReport:
    """Counts of one set of examples."""

    until_ms: int
    """The cutoff that was asked for, ms since 1970 UTC."""
    closed_ms: int
    """Up to when label windows of the log's moments could be closed."""
    label_window_ms: int
    n_user_buckets: int = 1
    location: str = ""
    n_examples: int = 0
    n_moments: int = 0
    by_stage: dict[str, int] = field(default_factory=dict)
    labelled_by_stage: dict[str, int] = field(default_factory=dict)
    labels_by_kind: dict[str, int] = field(default_factory=dict)
    engagements: dict[str, int] = field(default_factory=dict)
    """What became of the engagements: `request` and `user_item` label an impression."""
    left_out: dict[str, int] = field(default_factory=dict)
    lake_versions: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, object]:
        """The report as a JSON document."""
        return asdict(self)

    def text(self) -> str:
        """The report for a person."""
        lines = [
            f"{self.n_examples:,} examples of {self.n_moments:,} moments in {self.seconds:.1f} s"
            f" at {self.location}"
        ]
        for stage, count in self.by_stage.items():
            labelled = self.labelled_by_stage.get(stage, 0)
            lines.append(f"  {stage:<10} {count:>12,}   with labels {labelled:>10,}")
        if self.labels_by_kind:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in self.labels_by_kind.items())
            lines.append(f"labels: {kinds}")
        if self.engagements:
            fates = ", ".join(f"{fate} {n:,}" for fate, n in self.engagements.items())
            lines.append(f"engagements joined by: {fates}")
        lines += [f"left out: {n:,} {_LEFT_OUT[name]}" for name, n in self.left_out.items() if n]
        return "\n".join(lines)


def count_examples(
    connection: duckdb.DuckDBPyConnection, examples: str, report: ExampleReport
) -> None:
    """Fill in what can be counted in the produced rows."""
    stages = connection.sql(f"""
        SELECT stage, count(*), count(*) FILTER (len(labels) > 0) FROM {examples}
        GROUP BY stage ORDER BY count(*) DESC, stage""").fetchall()
    report.by_stage = {stage: n for stage, n, _ in stages}
    report.labelled_by_stage = {stage: n for stage, _, n in stages}
    report.n_examples = sum(report.by_stage.values())
    report.labels_by_kind = dict(
        connection.sql(f"""
            SELECT label.kind, count(*) FROM (SELECT unnest(labels) AS label FROM {examples})
            GROUP BY ALL ORDER BY count(*) DESC, label.kind""").fetchall()
    )
    moments = connection.sql(f"SELECT count(DISTINCT moment_id) FROM {examples}").fetchall()
    report.n_moments = moments[0][0]


def sort_counts(report: ExampleReport, made: Mapping[str, int], with_organic: bool) -> None:
    """Put the counts that the parts made into the report."""
    fates = {name: made.get(f"engagements_{name}", 0) for name in FATES}
    report.engagements = {name: count for name, count in fates.items() if count}
    left_out = dict.fromkeys(_LEFT_OUT, 0) | {n: made[n] for n in _LEFT_OUT if n in made}
    if not with_organic:
        left_out["engagements_not_used"] = sum(fates[name] for name in ORGANIC_FATES)
    report.left_out = left_out
