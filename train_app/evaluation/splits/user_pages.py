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
from recsys.types import FloatArray, RowArray
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
PAGE_LENGTH = 10
GRADED_BY_VALUE = "value"
GRADED_BY_KIND = "kind"


@dataclass(frozen=True)
class UserPages:
    """The users with a held-out engagement and what each of them engaged with."""

    queries: HeldOut
    """One query per user, whose history ends at the cutoff."""
    keys: NDArray[np.int64]
    """[E] query x (items + 1) + item row of every held-out engagement, ascending."""
    grades: FloatArray  # [E] relevance of each key
    n_relevant: NDArray[np.int64]  # [Q] items of a grade above 0
    ideal: FloatArray  # [Q, PAGE_LENGTH] the highest grades of each query, 0 padding
    graded_by: str
    """`value`: the imported or logged value; `kind`: the weight of the engagement's kind."""
    n_users: int
    """Users with a held-out engagement, of whom the queries may be a sample."""

    @classmethod
    def of(cls, held_out: HeldOut, settings: Settings, max_users: int) -> UserPages:
        """From all engagements of the `time` protocol, of at most `max_users` users by seed."""
        users, first = np.unique(held_out.users, return_index=True)
        n_users = len(users)
        if n_users > max_users:
            rng = np.random.default_rng(settings.train.seed)
            drawn = np.sort(rng.choice(n_users, max_users, replace=False))
            users, first = users[drawn], first[drawn]
        data = held_out.interactions
        query_of = np.full(data.n_users, -1, np.int64)
        query_of[users] = np.arange(len(users))
        query = query_of[held_out.users]
        kept = query >= 0
        grades, graded_by = _grades(held_out, settings)
        query, grades = query[kept], grades[kept]
        keys = query * (data.n_items + 1) + held_out.targets[kept]
        order = np.argsort(keys)
        owners = data.user_of_event()[held_out.is_train]
        n_known = np.bincount(owners, minlength=data.n_users)
        queries = replace(
            held_out,
            positions=held_out.positions[first],
            history_ends=data.offsets[users] + n_known[users],
            users=users,
        )
        return cls(
            queries=queries,
            keys=keys[order],
            grades=grades[order].astype(np.float32),
            n_relevant=np.bincount(query[grades > 0], minlength=len(users)),
            ideal=_highest(query, grades, len(users)),
            graded_by=graded_by,
            n_users=n_users,
        )

    def gains(self, lists: RowArray) -> FloatArray:
        """The grade of every item of the lists, [Q, K]."""
        n_items = self.queries.interactions.n_items
        asked = np.arange(len(lists), dtype=np.int64)[:, None] * (n_items + 1) + lists
        place = np.minimum(np.searchsorted(self.keys, asked), len(self.keys) - 1)
        is_relevant = (self.keys[place] == asked) & (lists >= 0)
        return np.where(is_relevant, self.grades[place], 0.0).astype(np.float32)

    def section(self, lists: Mapping[str, RowArray], seed: int) -> Section:
        """The table of all methods."""
        rows: list[tuple[Cell, ...]] = []
        for name, found in lists.items():
            gains = self.gains(found)
            values = (
                precision(gains, PAGE_LENGTH),
                recall(gains, self.n_relevant, PAGE_LENGTH),
                average_precision(gains, self.n_relevant, found.shape[1]),
                reciprocal_rank(gains),
                ndcg(gains, self.ideal, PAGE_LENGTH),
            )
            rows.append((name, *(bootstrap_mean(v, self.queries.users, seed) for v in values)))
        grade = (
            "grade of an item: its value"
            if self.graded_by == GRADED_BY_VALUE
            else "grade of an item: the weight of its kind (train.scorer.utility_weights, else 1)"
        )
        title = (
            f"one page per user at the cutoff, {len(self.queries):,} users with "
            f"{float(np.mean(self.n_relevant)):.1f} relevant items each"
        )
        notes = [grade]
        if len(self.queries) < self.n_users:
            notes.append(f"drawn at random of {self.n_users:,} users; each judged by all they did")
        return Section("users", title, ("method", *COLUMNS), tuple(rows), tuple(notes))


def _highest(query: NDArray[np.int64], grades: NDArray[np.float64], n_queries: int) -> FloatArray:
    """The highest grades of each query, highest first, [Q, PAGE_LENGTH]; 0 padding."""
    order = np.lexsort((-grades, query))
    counts = np.bincount(query, minlength=n_queries)
    place = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    kept = place < PAGE_LENGTH
    highest = np.zeros((n_queries, PAGE_LENGTH), np.float32)
    highest[query[order][kept], place[kept]] = grades[order][kept]
    return highest


def _grades(held_out: HeldOut, settings: Settings) -> tuple[NDArray[np.float64], str]:
    """Relevance of each held-out engagement, above 0, [Q], and what it was taken from."""
    data = held_out.interactions
    values = data.values[held_out.positions].astype(np.float64)
    if np.isfinite(values).all() and (values > 0).all():
        return values, GRADED_BY_VALUE
    weights = settings.train.scorer.utility_weights
    by_kind = np.asarray([weights.get(kind, 1.0) for kind in data.kinds], np.float64)
    return np.maximum(by_kind[data.kind_ids[held_out.positions]], 0.0), GRADED_BY_KIND
