"""What an import did, as numbers and as text."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from train_app.importing.raw_batch import BadRow

EXAMPLES_PER_REASON = 5


@dataclass(frozen=True, slots=True)
class EntryCounts:
    """Rows of a file of items or users."""

    n_rows: int = 0
    n_new: int = 0
    """New, or other than the lake had them."""
    n_known: int = 0
    n_kept_deleted: int = 0
    """Items that were taken out of the catalogue and stay out."""


@dataclass(frozen=True, slots=True)
class ImportReport:
    """The outcome of one import; times are milliseconds since 1970 UTC."""

    source: str
    format: str
    dry_run: bool
    n_rows: int
    n_new: int
    n_duplicates: int
    n_known: int
    n_users: int
    n_items: int
    kinds: dict[str, int]
    time_units: dict[str, int]
    first_ms: int | None
    last_ms: int | None
    quarantined: dict[str, int]
    examples: dict[str, list[str]]
    items: EntryCounts | None
    users: EntryCounts | None
    columns: dict[str, str]
    n_histories: int
    seconds: float

    @property
    def n_quarantined(self) -> int:
        """Rows in quarantine."""
        return sum(self.quarantined.values())

    def as_dict(self) -> dict[str, object]:
        """The report as a JSON document."""
        return {**asdict(self), "n_quarantined": self.n_quarantined}

    def text(self) -> str:
        """The report for a person."""
        verb = "would be imported" if self.dry_run else "imported"
        columns = ", ".join(f"{name}={value}" for name, value in self.columns.items())
        lines = [
            f"{self.source} ({self.format}): {self.n_rows:,} rows read, {self.n_new:,} {verb}"
            f" in {self.seconds:.1f} s",
            f"  columns      {columns}",
            f"  already there {self.n_known:,}, duplicates in the file {self.n_duplicates:,},"
            f" quarantined {self.n_quarantined:,}",
            f"  users {self.n_users:,}, items {self.n_items:,},"
            f" kinds {', '.join(f'{kind} {count:,}' for kind, count in self.kinds.items())}",
            f"  time         {self._time_text()}",
        ]
        for name, counts in (("items file", self.items), ("users file", self.users)):
            if counts is not None:
                kept = f", {counts.n_kept_deleted:,} stay deleted" if counts.n_kept_deleted else ""
                lines.append(
                    f"  {name}   {counts.n_rows:,} rows, {counts.n_new:,} new or changed,"
                    f" {counts.n_known:,} already there{kept}"
                )
        lines += quarantine_lines(self.quarantined, self.examples)
        return "\n".join(lines)

    def _time_text(self) -> str:
        if self.first_ms is None or self.last_ms is None:
            return "none"
        if "order" in self.time_units:
            return "no timestamp column: the order of the file is the time"
        span = f"{_day(self.first_ms)} to {_day(self.last_ms)} UTC"
        units = ", ".join(
            unit if len(self.time_units) == 1 else f"{unit} in {count:,} rows"
            for unit, count in self.time_units.items()
        )
        mixed = " (mixed: each row was read in its own unit)" if len(self.time_units) > 1 else ""
        return f"{span}, timestamps in {units}{mixed}"


@dataclass
class Quarantine:
    """Counts and examples of the rows that were refused."""

    counts: dict[str, int] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, source: str, row: BadRow) -> None:
        """Count one row."""
        self.counts[row.reason] = self.counts.get(row.reason, 0) + 1
        shown = self.examples.setdefault(row.reason, [])
        if len(shown) < EXAMPLES_PER_REASON:
            shown.append(f"{source} line {row.line}: {row.raw[:120]}")


def quarantine_lines(counts: dict[str, int], examples: dict[str, list[str]]) -> list[str]:
    """The reasons with their counts and examples, most frequent first."""
    lines = []
    for reason, count in sorted(counts.items(), key=lambda entry: -entry[1]):
        lines.append(f"  quarantined  {count:,} rows: {reason}")
        lines += [f"    {example}" for example in examples.get(reason, [])]
    return lines


def _day(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / 1000, UTC):%Y-%m-%d %H:%M}"
