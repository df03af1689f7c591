"""One page per user at the cutoff, judged by all the user did afterwards, with graded relevance.

The classic top-N protocol beside the next-item one: a user has several relevant items, so
precision, recall and MAP differ from the hit rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.settings import Settings
from recsys.types import NO_ROW, FloatArray, RowArray
from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.metrics import (
    average_precision,
    bootstrap_mean,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)

COLUMNS = ("P@10", "recall@10", "MAP", "MRR", "NDCG@10 graded")
GRADED_BY_VALUE = "value"
GRADED_BY_KIND = "kind"


@dataclass(frozen=True)
class UserPages:
    """The users with a held-out engagement and what each of them engaged with."""

    queries: HeldOut
    """One query per user, whose history ends at the cutoff."""
    relevant: RowArray  # [Q, R] item rows, -1 padding
    grades: FloatArray  # [Q, R] relevance, 0 padding
    graded_by: str
    """`value`: the imported or logged value; `kind`: the weight of the engagement's kind."""

    @classmethod
    def of(cls, held_out: HeldOut, settings: Settings) -> UserPages:
        """From the engagements of the `time` protocol."""
        users, first, counts = np.unique(held_out.users, return_index=True, return_counts=True)
        by_user = np.argsort(held_out.users, kind="stable")
        grades, graded_by = _grades(held_out, settings)
        query = np.repeat(np.arange(len(users)), counts)
        place = np.arange(len(by_user)) - np.repeat(np.cumsum(counts) - counts, counts)
        shape = (len(users), int(counts.max(initial=0)))
        relevant, graded = np.full(shape, NO_ROW, np.int32), np.zeros(shape, np.float32)
        relevant[query, place] = held_out.targets[by_user]
        graded[query, place] = grades[by_user]
        data = held_out.interactions
        owners = data.user_of_event()[held_out.is_train]
        n_known = np.bincount(owners, minlength=data.n_users)
        queries = replace(
            held_out,
            positions=held_out.positions[first],
            history_ends=data.offsets[users] + n_known[users],
            users=users,
        )
        return cls(queries, relevant, graded, graded_by)

    def gains(self, lists: RowArray) -> FloatArray:
        """The grade of every item of the lists, [Q, K]."""
        n_items = self.queries.interactions.n_items
        query = np.arange(len(lists), dtype=np.int64)[:, None] * (n_items + 1)
        keys = (query + self.relevant)[self.relevant >= 0]
        order = np.argsort(keys)
        keys, grades = keys[order], self.grades[self.relevant >= 0][order]
        asked = query + lists
        place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        is_relevant = (keys[place] == asked) & (lists >= 0)
        return np.where(is_relevant, grades[place], 0.0).astype(np.float32)

    def section(self, lists: Mapping[str, RowArray], seed: int) -> Section:
        """The table of all methods."""
        n_relevant = (self.grades > 0).sum(axis=1)
        rows: list[tuple[Cell, ...]] = []
        for name, found in lists.items():
            gains = self.gains(found)
            values = (
                precision(gains, 10),
                recall(gains, n_relevant, 10),
                average_precision(gains, n_relevant, found.shape[1]),
                reciprocal_rank(gains),
                ndcg(gains, self.grades, 10),
            )
            rows.append((name, *(bootstrap_mean(v, self.queries.users, seed) for v in values)))
        grade = (
            "grade of an item: its value"
            if self.graded_by == GRADED_BY_VALUE
            else "grade of an item: the weight of its kind (train.scorer.utility_weights, else 1)"
        )
        title = (
            f"one page per user at the cutoff, {len(self.queries):,} users with "
            f"{float(np.mean(n_relevant)):.1f} relevant items each"
        )
        return Section("users", title, ("method", *COLUMNS), tuple(rows), (grade,))


def _grades(held_out: HeldOut, settings: Settings) -> tuple[NDArray[np.float64], str]:
    """Relevance of each held-out engagement, above 0, [Q], and what it was taken from."""
    data = held_out.interactions
    values = data.values[held_out.positions].astype(np.float64)
    if np.isfinite(values).all() and (values > 0).all():
        return values, GRADED_BY_VALUE
    weights = settings.train.scorer.utility_weights
    by_kind = np.asarray([weights.get(kind, 1.0) for kind in data.kinds], np.float64)
    return np.maximum(by_kind[data.kind_ids[held_out.positions]], 0.0), GRADED_BY_KIND
