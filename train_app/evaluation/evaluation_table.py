"""From ranked lists to the offline table: metrics with 95 % intervals, paired differences, text.

Pure: knows lists and targets, not who made the lists or where the table goes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recsys.types import RowArray
from train_app.evaluation.metrics import (
    Interval,
    Values,
    bootstrap_coverage,
    bootstrap_mean,
    hit_rate,
    ndcg,
    recall,
    reciprocal_rank,
)

HR, NDCG, RECALL, MRR, COVERAGE = "HR@10", "NDCG@10", "recall@200", "MRR", "coverage@10"
COLUMNS = (HR, NDCG, RECALL, MRR, COVERAGE)
PAGE_LENGTH = 10
_TEXT_WIDTH = 160


@dataclass(frozen=True)
class Ranked:
    """The lists of one method for all queries, with one number per query and metric."""

    lists: RowArray  # [Q, PAGE_LENGTH] item rows
    per_query: Mapping[str, Values]  # [Q] each


@dataclass(frozen=True)
class Figures:
    """One row of the table."""

    method: str
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Difference:
    """One method minus another on the same queries."""

    method: str
    other: str
    metrics: Mapping[str, Interval]


@dataclass(frozen=True)
class Evaluation:
    """The result of an offline evaluation; `text` for a person, `as_dict` for a program."""

    protocol: str
    n_queries: int
    n_users: int
    n_items: int
    figures: tuple[Figures, ...]
    differences: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()
    facts: Mapping[str, object] = field(default_factory=dict)
    """What else a reader needs: bundle ids, training seconds, cutoff."""

    def metric(self, method: str, column: str) -> float:
        """One figure of the table."""
        row = next(figures for figures in self.figures if figures.method == method)
        return row.metrics[column].mean

    def as_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "protocol": self.protocol,
            "n_queries": self.n_queries,
            "n_users": self.n_users,
            "n_items": self.n_items,
            "methods": {row.method: _as_json(row.metrics) for row in self.figures},
            "differences": [
                {"method": d.method, "other": d.other, "metrics": _as_json(d.metrics)}
                for d in self.differences
            ],
            "notes": list(self.notes),
            **self.facts,
        }

    def text(self) -> str:
        """As a table for a terminal."""
        title = (
            f"{self.protocol}: {self.n_queries:,} held-out engagements of {self.n_users:,} users, "
            f"{self.n_items:,} items; 95 % intervals"
        )
        table = Table(title=title, title_justify="left")
        table.add_column("method", no_wrap=True)
        for column in COLUMNS:
            table.add_column(column, justify="right", no_wrap=True)
        for row in self.figures:
            table.add_row(row.method, *(_cell(row.metrics.get(name)) for name in COLUMNS))
        for difference in self.differences:
            cells = (_cell(difference.metrics.get(name), signed=True) for name in COLUMNS)
            table.add_row(f"{difference.method} - {difference.other}", *cells)
        buffer = StringIO()
        console = Console(file=buffer, width=_TEXT_WIDTH)
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False, highlight=False)
        return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def measure(lists: RowArray, targets: RowArray) -> Ranked:
    """The metrics of every query: one relevant item each, found at its place in the list.

    Args:
        lists: [Q, K] item rows, best first, -1 padded.
        targets: [Q] the held-out item of each query.
    """
    gains = (lists == targets[:, None]).astype(np.float32)
    ideal = np.ones((len(gains), 1), np.float32)
    return Ranked(
        lists=lists[:, :PAGE_LENGTH],
        per_query={
            HR: hit_rate(gains, PAGE_LENGTH),
            NDCG: ndcg(gains, ideal, PAGE_LENGTH),
            RECALL: recall(gains, 1, 200),
            MRR: reciprocal_rank(gains),
        },
    )


def figures(
    method: str, ranked: Ranked, users: NDArray[np.int64], n_items: int, seed: int
) -> Figures:
    """The table's row of one method."""
    metrics = {
        name: bootstrap_mean(values, users, seed) for name, values in ranked.per_query.items()
    }
    metrics[COVERAGE] = bootstrap_coverage(ranked.lists, n_items, users, seed)
    return Figures(method, metrics)


def difference(
    method: str, ranked: Ranked, other: str, than: Ranked, users: NDArray[np.int64], seed: int
) -> Difference:
    """What one method gains over another, paired by query."""
    return Difference(
        method,
        other,
        {
            name: bootstrap_mean(values - than.per_query[name], users, seed)
            for name, values in ranked.per_query.items()
        },
    )


def _as_json(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.as_dict() for name, interval in metrics.items()}


def _cell(interval: Interval | None, *, signed: bool = False) -> Text:
    if interval is None:
        return Text("")
    form = "+.3f" if signed else ".3f"
    bounds = f"{interval.low:{form}}..{interval.high:{form}}"
    return Text(f"{interval.mean:{form}}\n{bounds}")
