"""From ranked lists to the offline table: metrics with 95 % intervals, paired differences, text.

Pure: knows lists and targets, not who made the lists or where the table goes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.list_traits import ListTraits
from recsys.slate_traits import diversity_of, novelty_of
from recsys.types import RowArray
from train_app.evaluation.breakdown.query_traits import DEBIASED, PER_ITEM, QueryTraits
from train_app.evaluation.breakdown.report_section import Cell, Section, table_text
from train_app.evaluation.metrics import (
    Interval,
    Values,
    bootstrap_coverage,
    bootstrap_gini,
    bootstrap_mean,
    hit_rate,
    ndcg,
    recall,
    reciprocal_rank,
)

HR, NDCG, RECALL, MRR, COVERAGE = "HR@10", "NDCG@10", "recall@200", "MRR", "coverage@10"
COLUMNS = (HR, NDCG, RECALL, MRR, COVERAGE)
GINI, NOVELTY, DIVERSITY = "Gini@10", "novelty@10", "diversity@10"
BEYOND_COLUMNS = (DEBIASED, PER_ITEM, GINI, NOVELTY, DIVERSITY)
PAGE_LENGTH = 10


@dataclass(frozen=True)
class Ranked:
    """The lists of one method for all queries, with one number per query and metric."""

    lists: RowArray  # [Q, PAGE_LENGTH] item rows
    per_query: Mapping[str, Values]  # [Q] each
    ranks: NDArray[np.int64]
    """[Q] 0-based place of the target, `NOT_FOUND` where the list has it not."""


NOT_FOUND = 1_000_000


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
    sections: tuple[Section, ...] = ()
    """The same result by segment, stage, cut and cost."""

    def with_facts(self, **more: object) -> Evaluation:
        """The same result with further facts."""
        return replace(self, facts={**self.facts, **more})

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
            "sections": {section.key: section.as_json() for section in self.sections},
            "notes": [*self.notes, *(note for part in self.sections for note in part.notes)],
            **self.facts,
        }

    def text(self) -> str:
        """As tables for a terminal of 100 columns."""
        title = (
            f"{self.protocol}: {self.n_queries:,} held-out engagements of {self.n_users:,} users, "
            f"{self.n_items:,} items; 95 % intervals"
        )
        parts = [
            self._table(title, COLUMNS),
            self._table("against popularity, and beside being right", BEYOND_COLUMNS),
            *(section.text() for section in self.sections),
            *self.notes,
        ]
        return "\n".join(parts)

    def _table(self, title: str, columns: Sequence[str]) -> str:
        rows: list[list[Cell]] = [
            [row.method, *(row.metrics.get(name) for name in columns)] for row in self.figures
        ]
        rows += [
            [f"{d.method} - {d.other}", *(d.metrics.get(name) for name in columns)]
            for d in self.differences
        ]
        return table_text(title, ("method", *columns), rows, signed_from=len(self.figures))


def measure(lists: RowArray, targets: RowArray, traits: ListTraits | None = None) -> Ranked:
    """The metrics of every query: one relevant item each, found at its place in the list.

    Args:
        lists: [Q, K] item rows, best first, -1 padded.
        targets: [Q] the held-out item of each query.
        traits: of the items, for novelty and diversity; None leaves them out.
    """
    gains = (lists == targets[:, None]).astype(np.float32)
    ideal = np.ones((len(gains), 1), np.float32)
    page = lists[:, :PAGE_LENGTH]
    per_query = {
        HR: hit_rate(gains, PAGE_LENGTH),
        NDCG: ndcg(gains, ideal, PAGE_LENGTH),
        RECALL: recall(gains, 1, 200),
        MRR: reciprocal_rank(gains),
    }
    if traits is not None:
        per_query[NOVELTY] = novelty_of(traits, page)
        diversity = diversity_of(traits, page)
        if diversity is not None:
            per_query[DIVERSITY] = diversity
    is_found = gains.any(axis=1)
    ranks = np.where(is_found, gains.argmax(axis=1) if gains.shape[1] else 0, NOT_FOUND)
    return Ranked(lists=page, per_query=per_query, ranks=ranks.astype(np.int64))


def figures(method: str, ranked: Ranked, traits: QueryTraits, n_items: int, seed: int) -> Figures:
    """The table's row of one method."""
    users = traits.users
    metrics = {
        name: bootstrap_mean(values, users, seed) for name, values in ranked.per_query.items()
    }
    for name, weights in traits.weights().items():
        metrics[name] = bootstrap_mean(ranked.per_query[NDCG], users, seed, weights=weights)
    metrics[COVERAGE] = bootstrap_coverage(ranked.lists, n_items, users, seed)
    metrics[GINI] = bootstrap_gini(ranked.lists, n_items, users, seed)
    return Figures(method, metrics)


def difference(
    method: str, ranked: Ranked, other: str, than: Ranked, traits: QueryTraits, seed: int
) -> Difference:
    """What one method gains over another, paired by query."""
    gained = {
        name: values - than.per_query[name]
        for name, values in ranked.per_query.items()
        if name in than.per_query
    }
    metrics = {name: bootstrap_mean(values, traits.users, seed) for name, values in gained.items()}
    for name, weights in traits.weights().items():
        metrics[name] = bootstrap_mean(gained[NDCG], traits.users, seed, weights=weights)
    return Difference(method, other, metrics)


def _as_json(metrics: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    return {name: interval.as_dict() for name, interval in metrics.items()}
