"""What serving would merge with the index for held-out queries, as far as it can be known offline.

Popular and fresh are the bundle's own; neighbours are as of the end of what may be learned from,
as when the bundle begins to serve; trending is as of each query, as its history is, where time
splits the data, and counts training engagements alone elsewhere. Rows are the bundle's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import ItemTable
from recsys.candidates import CandidateSet, merge_sources
from recsys.neighbour_candidates import (
    NeighbourTable,
    neighbour_candidates,
    newest_seeds,
    seed_kinds,
)
from recsys.settings import Settings
from recsys.types import Batch, RowArray, Source
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.examples.interactions import Interactions
from train_app.past.past_pairs import past_pairs
from train_app.past.past_trends import PastTrends


@dataclass(frozen=True)
class _Known:
    """What one split of the data says of neighbours and trends."""

    is_train: NDArray[np.bool_]
    table: NeighbourTable  # in the bundle's rows
    trends: PastTrends


@dataclass
class PageSources:
    """The sources of one bundle beside its index; remembers the neighbours of one split."""

    popular: RowArray
    fresh: RowArray
    kinds: tuple[str, ...]
    """The bundle's, in the order of its feature schema."""
    settings: Settings
    _known: _Known | None = field(default=None, repr=False)

    @classmethod
    def of_bundle(cls, items: ItemTable, kinds: tuple[str, ...], settings: Settings) -> PageSources:
        """Popular and fresh items as serving reads them from the bundle."""
        retrieval = settings.retrieval
        fresh = items.fresh_rows(retrieval.fresh_days)[: retrieval.n_fresh]
        return cls(items.popular_rows[: retrieval.n_popular], fresh, kinds, settings)

    def merged(
        self,
        queries: HeldOut,
        features: Batch,
        index: RowArray,
        seen: list[RowArray],
        bundle_row: RowArray,
    ) -> CandidateSet:
        """The candidates of each query from all sources.

        Args:
            features: "items" and "kinds" [B, L] in the bundle's rows and kinds.
            index: what the index found, unseen, best first, [B, C].
            bundle_row: of every item of the queries' data; the last cell answers for -1.
        """
        retrieval, negative = self.settings.retrieval, self.settings.events.negative_kinds
        moments_ms = queries.interactions.timestamps_ms[queries.positions]
        known = self._known_of(queries, bundle_row)
        trending = known.trends.lists(moments_ms, retrieval.n_trending)
        seeds = newest_seeds(features, seed_kinds(self.kinds, negative), retrieval.neighbour_seeds)
        extras = [
            (
                Source.NEIGHBOURS,
                neighbour_candidates(known.table, seeds, features["items"], retrieval.n_neighbours),
            ),
            (Source.TRENDING, bundle_row[trending]),
            (Source.POPULAR, np.broadcast_to(self.popular, (len(index), len(self.popular)))),
            (Source.FRESH, np.broadcast_to(self.fresh, (len(index), len(self.fresh)))),
        ]
        scores = np.zeros(index.shape, np.float32)
        return merge_sources(index, scores, extras, seen, None, index.shape[1])

    def _known_of(self, queries: HeldOut, bundle_row: RowArray) -> _Known:
        if self._known is None or self._known.is_train is not queries.is_train:
            train = queries.train
            # Only a split by time may read what others did after the cut: it was known by then.
            log = queries.interactions if queries.protocol == "time" else train
            self._known = _Known(
                queries.is_train,
                self._table(train, bundle_row),
                PastTrends(log, self.settings.events.negative_kinds),
            )
        return self._known

    def _table(self, train: Interactions, bundle_row: RowArray) -> NeighbourTable:
        """The neighbours that were known when training ended."""
        n_kept = self.settings.retrieval.n_neighbours
        pairs = past_pairs(train, self.settings.events.negative_kinds, self.settings.features)
        until_ms = int(train.timestamps_ms.max(initial=0)) + 1
        own = pairs.neighbours(until_ms, n_kept)
        rows = bundle_row[:-1]
        table = NeighbourTable.empty(int(rows.max(initial=-1)) + 1, n_kept)
        table.rows[rows[rows >= 0]] = bundle_row[own.rows[rows >= 0]]
        table.scores[rows[rows >= 0]] = own.scores[rows >= 0]
        table.scores[table.rows < 0] = -np.inf  # neighbours the bundle does not know
        return table


def index_alone(rows: RowArray) -> CandidateSet:
    """What the index found, best first, as candidates, [B, C]."""
    ranks = np.arange(rows.shape[1], dtype=np.int32)
    return CandidateSet(
        rows=rows,
        sources=np.full(rows.shape, Source.INDEX, np.int8),
        ranks=np.tile(ranks, (len(rows), 1)),
        retrieval_scores=np.zeros(rows.shape, np.float32),
        n_removed=np.zeros(len(rows), np.int32),
    )


def scorer_inputs(features: Batch, candidates: CandidateSet) -> Batch:
    """What the scorer reads of candidates, beside the features of who asked."""
    return {
        **features,
        "rows": candidates.rows,
        "sources": candidates.sources,
        "ranks": candidates.ranks,
    }
