"""Which stage finds the held-out item, and which one loses it.

Pure: ranks of the target in each stage's list. What is lost from retrieval to the final page adds
up: 1 = final NDCG + lost by retrieval + lost by ranking + lost by ordering.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from train_app.evaluation.breakdown.query_traits import QueryTraits
from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.evaluation_table import NDCG, NOT_FOUND, Ranked
from train_app.evaluation.metrics import bootstrap_mean
from train_app.evaluation.rankers import (
    FINAL_PAGE,
    LIST_LENGTH,
    PAGE,
    RETRIEVAL_EXACT,
    RETRIEVAL_INDEX,
)

CUTOFFS = (10, 50, 200)


def stage_section(
    ranked: Mapping[str, Ranked], traits: QueryTraits, seed: int, n_candidates: int
) -> Section | None:
    """Recall at three lengths and NDCG of every stage's list; None where there are no stages."""
    stages = [name for name in (RETRIEVAL_EXACT, RETRIEVAL_INDEX, PAGE, FINAL_PAGE)]
    rows: list[tuple[Cell, ...]] = []
    for name in stages:
        if name not in ranked:
            continue
        n_listed = 10 if name == FINAL_PAGE else 200
        recalls = [
            bootstrap_mean((ranked[name].ranks < k).astype(np.float64), traits.users, seed)
            if k <= n_listed
            else None
            for k in CUTOFFS
        ]
        quality = bootstrap_mean(ranked[name].per_query[NDCG], traits.users, seed)
        rows.append((name, *recalls, quality))
    columns = ("stage", *(f"recall@{k}" for k in CUTOFFS), NDCG)
    title = f"by stage ({n_candidates} candidates are scored)"
    return Section("stages", title, columns, tuple(rows)) if rows else None


def loss_section(
    ranked: Mapping[str, Ranked], traits: QueryTraits, seed: int, n_candidates: int
) -> Section | None:
    """Where NDCG@10 is lost between all items and the final page; None without a page."""
    if PAGE not in ranked or RETRIEVAL_INDEX not in ranked:
        return None
    users = traits.users
    page = ranked[PAGE].per_query[NDCG]
    before = ranked[RETRIEVAL_INDEX].per_query[NDCG]
    final = ranked[FINAL_PAGE].per_query[NDCG] if FINAL_PAGE in ranked else page
    is_retrieved = ranked[PAGE].ranks < NOT_FOUND
    rows: list[tuple[Cell, ...]] = [
        ("lost by retrieval: not among the candidates", _mean(~is_retrieved, users, seed)),
        ("lost by ranking: a candidate, not at the top", _mean(is_retrieved - page, users, seed)),
        ("lost by ordering: page less final page", _mean(page - final, users, seed)),
        ("final page", _mean(final, users, seed)),
    ]
    if is_retrieved.any():
        of = users[is_retrieved]
        rows += [
            ("given retrieval: page", _mean(page[is_retrieved], of, seed)),
            ("given retrieval: in the order of retrieval", _mean(before[is_retrieved], of, seed)),
        ]
    title = f"where {NDCG} is lost (the first four add up to 1)"
    notes: tuple[str, ...] = ()
    if n_candidates > LIST_LENGTH:
        notes = (
            f"a candidate beyond place {LIST_LENGTH} of the page counts as lost by retrieval: "
            f"lists end there, and {n_candidates} are scored",
        )
    return Section("losses", title, ("part", NDCG), tuple(rows), notes)


def _mean(values: np.ndarray, users: np.ndarray, seed: int) -> Cell:
    return bootstrap_mean(np.asarray(values, np.float64), users, seed)
