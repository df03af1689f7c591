"""What data checks found: one result per check, a report of them all, and the refusal to train."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rich.console import Console
from rich.table import Table

from recsys.errors import DataError, DataRefused

Level: TypeAlias = Literal["ok", "warning", "error"]
Purpose: TypeAlias = Literal["check", "training", "evaluation"]
Figure: TypeAlias = int | float | str | None
REPORTS_DIR = "reports"
MAX_TRAINING_REPORTS = 200
MAX_OTHER_REPORTS = 20
"""Older reports are removed; looks in between may not push out what drift is measured from."""
_PREFIX = "data-checks-"
_TEXT_WIDTH = 120
_RANK: dict[Level, int] = {"error": 0, "warning": 1, "ok": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the data: what it is and what to do."""

    level: Literal["error", "warning"]
    detail: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one check found, with the figures it went by."""

    name: str
    findings: tuple[Finding, ...] = ()
    figures: Mapping[str, Figure] = field(default_factory=dict)
    note: str = ""
    """What there is to say where nothing was found."""

    @property
    def level(self) -> Level:
        """The worst of its findings."""
        levels: set[str] = {finding.level for finding in self.findings}
        return "error" if "error" in levels else "warning" if levels else "ok"

    def as_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "name": self.name,
            "level": self.level,
            "findings": [{"level": one.level, "detail": one.detail} for one in self.findings],
            "note": self.note,
            "figures": dict(self.figures),
        }


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The results of all checks of one run, in the order they ran."""

    at_ms: int
    results: tuple[CheckResult, ...]
    purpose: Purpose = "check"
    """What was about to begin, if anything."""
    newest_ms: int | None = None
    """The newest logged engagement that was there."""
    seconds: float = 0.0

    @property
    def level(self) -> Level:
        """The worst level of all."""
        return min((result.level for result in self.results), key=_RANK.__getitem__, default="ok")

    def details(self, level: Level) -> list[str]:
        """What was found at a level, in one sentence each."""
        return [
            finding.detail
            for result in self.results
            for finding in result.findings
            if finding.level == level
        ]

    def summary(self) -> dict[str, str]:
        """The level of each check, for a bundle's lineage."""
        return {result.name: result.level for result in self.results}

    def as_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "at_ms": self.at_ms,
            "purpose": self.purpose,
            "level": self.level,
            "newest_ms": self.newest_ms,
            "seconds": round(self.seconds, 2),
            "checks": [result.as_dict() for result in self.results],
        }

    def text(self) -> str:
        """As a table, the worst first."""
        table = Table(title=f"data checks: {self.level}", title_justify="left")
        for column in ("check", "level", "detail"):
            table.add_column(column, no_wrap=column != "detail", overflow="fold")
        for result in sorted(self.results, key=lambda one: _RANK[one.level]):
            details = [finding.detail for finding in result.findings]
            table.add_row(result.name, result.level, "\n".join(details) or result.note)
        buffer = StringIO()
        Console(file=buffer, width=_TEXT_WIDTH).print(table)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def refusal(report: CheckReport) -> DataRefused | None:
    """Why training would make no sense, naming all reasons; None where it may begin."""
    errors = list(dict.fromkeys(report.details("error")))
    if not errors:
        return None
    return DataRefused("the data checks refused to train: " + "; ".join(errors))


def write_report(report: CheckReport, data_dir: Path) -> Path:
    """Keep a report under `data_dir/reports`, named by its time.

    Raises:
        DataError: it cannot be written.
    """
    folder = data_dir / REPORTS_DIR
    at = datetime.fromtimestamp(report.at_ms / 1000, UTC)
    path = folder / f"{_PREFIX}{at:%Y%m%dT%H%M%S}{report.at_ms % 1000:03d}Z.json"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(".tmp")
        temporary.write_text(json.dumps(report.as_dict(), indent=2, allow_nan=False))
        temporary.replace(path)
        for old in _superfluous(folder):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"the report {path} of the data checks cannot be written: {error.strerror}; check the"
            " folder and its disk"
        ) from error
    return path


def training_times(data_dir: Path) -> list[int]:
    """The newest engagement each earlier training had, newest training first."""
    times: list[int] = []
    for document in _kept_reports(data_dir):
        newest_ms = document.get("newest_ms")
        if document.get("purpose") == "training" and isinstance(newest_ms, int):
            times.append(newest_ms)
    return times


def earlier_figures(data_dir: Path, check: str, figure: str) -> list[Figure]:
    """One figure of a check as the kept reports have it, newest first."""
    return [
        one["figures"][figure]
        for document in _kept_reports(data_dir)
        for one in document.get("checks", ())
        if one.get("name") == check and figure in one.get("figures", {})
    ]


def _superfluous(folder: Path) -> list[Path]:
    """Reports of trainings, and of everything else, beyond the newest that are kept of each."""
    trainings: list[Path] = []
    others: list[Path] = []
    for path in _newest_first(folder):
        is_training = _read(path).get("purpose") == "training"
        (trainings if is_training else others).append(path)
    return [*trainings[MAX_TRAINING_REPORTS:], *others[MAX_OTHER_REPORTS:]]


def _kept_reports(data_dir: Path) -> Iterator[dict[str, Any]]:
    """The reports that can be read, newest first."""
    return filter(None, map(_read, _newest_first(data_dir / REPORTS_DIR)))


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"{_PREFIX}*.json"), reverse=True)


def _read(path: Path) -> dict[str, Any]:
    """A report; empty where it cannot be read."""
    try:
        document = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def error(detail: str) -> Finding:
    """A finding that refuses training."""
    return Finding("error", detail)


def warning(detail: str) -> Finding:
    """A finding that is only told."""
    return Finding("warning", detail)


def graded(
    n: int, total: int, warn_above: float, refuse_above: float, detail: str
) -> list[Finding]:
    """A finding about a share of rows, by the shares that are told and that refuse."""
    share = n / total if total else 0.0
    if share > refuse_above:
        return [error(detail)]
    return [warning(detail)] if share > warn_above else []
