"""Quality beside what it cost: processor time, memory and time per request of every method.

Pure but for the clock of the timed ranker.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from recsys.types import RowArray
from train_app.evaluation.breakdown.cost_meter import Cost
from train_app.evaluation.breakdown.query_traits import QueryTraits
from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.evaluation_table import NDCG, Ranked
from train_app.evaluation.metrics import bootstrap_mean
from train_app.evaluation.rankers import Ranker

COLUMNS = ("method", NDCG, "tuning CPU s", "fitting CPU s", "fitting s", "peak MB", "ms/request")


class TimedRanker:
    """A ranker that knows how long its lists took."""

    def __init__(self, ranker: Ranker, now_s: Callable[[], float] = perf_counter) -> None:
        self._ranker = ranker
        self._now_s = now_s
        self._spent_s = 0.0
        self._n_queries = 0

    def __call__(self, queries: HeldOut) -> dict[str, RowArray]:
        """The ranker's lists."""
        began_s = self._now_s()
        lists = self._ranker(queries)
        self._spent_s += self._now_s() - began_s
        self._n_queries += len(queries)
        return lists

    @property
    def ms_per_request(self) -> float:
        """Milliseconds per query so far."""
        return 1000.0 * self._spent_s / max(1, self._n_queries)


@dataclass(frozen=True)
class MethodCost:
    """What one method took; None is nothing, or not known."""

    tuning: Cost | None
    fitting: Cost | None
    ms_per_request: float


def cost_section(
    costs: Mapping[str, MethodCost], ranked: Mapping[str, Ranked], traits: QueryTraits, seed: int
) -> Section:
    """One row per method that stands for itself."""
    rows: list[tuple[Cell, ...]] = []
    for name, cost in costs.items():
        if name not in ranked:
            continue
        fitting = cost.fitting
        rows.append(
            (
                name,
                bootstrap_mean(ranked[name].per_query[NDCG], traits.users, seed),
                None if cost.tuning is None else cost.tuning.cpu_s,
                None if fitting is None else fitting.cpu_s,
                None if fitting is None else fitting.wall_s,
                None if fitting is None else fitting.peak_mb,
                cost.ms_per_request,
            )
        )
    note = "peak MB is of the whole process; ms/request: batches of up to 256, one process"
    return Section("cost", "quality and its cost", COLUMNS, tuple(rows), (note,))
