"""What fewer candidates would cost and save: quality of the page and time of a request at each.

Times are of this process on this machine, in batches as serving makes them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.breakdown.watched_stages import watched
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.evaluation_table import NDCG, measure
from train_app.evaluation.metrics import bootstrap_mean
from train_app.evaluation.rankers import PAGE, BundleParts, BundleRanker

BUDGETS = (25, 50, 100, 200)
BATCH = 64
"""Requests per batch: what a loaded gateway sends at once."""
MAX_QUERIES = 2_048
_METHODS = ("encode", "search", "score", "order")


def budget_section(
    parts: BundleParts, held_out: HeldOut, seed: int, budgets: Sequence[int] = BUDGETS
) -> Section:
    """NDCG@10 of the page and milliseconds per request, by how many candidates are scored."""
    queries = held_out.sample(MAX_QUERIES, seed)
    rows: list[tuple[Cell, ...]] = []
    for n_candidates in budgets:
        observed, watch = watched(parts)
        ranker = BundleRanker(observed, queries.interactions, n_candidates)
        ranker(next(queries.batches(BATCH)))  # the first call of a size prepares kernels
        watch.seconds.clear()
        lists = [ranker(batch)[PAGE] for batch in queries.batches(BATCH)]
        values = measure(np.concatenate(lists), queries.targets).per_query[NDCG]
        spent = [1000 * watch.seconds[name] / len(queries) for name in _METHODS]
        quality = bootstrap_mean(values, queries.users, seed)
        rows.append((n_candidates, quality, *spent, float(sum(spent))))
    columns = ("candidates", f"page {NDCG}", *(f"ms {name}" for name in _METHODS), "ms in all")
    title = f"by candidate budget, {len(queries):,} requests in batches of {BATCH}"
    return Section("budgets", title, columns, tuple(rows))
