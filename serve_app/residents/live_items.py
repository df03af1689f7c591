"""What changes about items while a bundle stays: what is popular and trending now, what goes
together, and what was taken out.

Refreshed from the feature store in a background thread; the request path only reads arrays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import ItemTable
from recsys.errors import RecsysError
from recsys.neighbour_candidates import NeighbourTable
from recsys.settings import RetrievalSettings
from recsys.stores.features.feature_store import CatalogueView, FeatureStore
from recsys.types import RowArray
from serve_app.residents.live_neighbours import LiveNeighbours

logger = logging.getLogger("ray.serve")

_READ_PER_KEPT = 4
"""Trending items read for each that is kept: some are new to the bundle, or deleted."""


@dataclass(frozen=True, slots=True)
class LiveRows:
    """The live facts in the rows of one bundle."""

    blocked: NDArray[np.bool_]  # [N], true for what must not be recommended
    popular: RowArray  # most popular first; live popularity, then the bundle's own
    trending: RowArray  # most above expectation first
    neighbours: NeighbourTable | None = None  # None where nobody is known to have any


class LiveItems:
    """Live item facts per resident bundle.

    Args:
        features: the feature store.
        n_popular_live: items of the live popular list that are read.
        retrieval: how many rows of each source are kept per bundle; of popular ones enough to
            answer without any index.
    """

    def __init__(
        self, features: FeatureStore, n_popular_live: int, retrieval: RetrievalSettings
    ) -> None:
        self._features = features
        self._neighbours = LiveNeighbours(features, retrieval.n_neighbours)
        self._n_popular_live = n_popular_live
        self._n_popular_kept = retrieval.n_candidates
        self._n_trending = retrieval.n_trending
        self._version = 0
        self._blocked: frozenset[str] = frozenset()
        self._put: frozenset[str] = frozenset()
        self._popular: tuple[str, ...] = ()
        self._trending: tuple[str, ...] = ()
        self._rows: dict[str, LiveRows] = {}

    def rows(self, bundle_id: str, items: ItemTable) -> LiveRows:
        """The live rows of a bundle; made now if the background has not seen it yet."""
        rows = self._rows.get(bundle_id)
        if rows is None:
            rows = self._make(bundle_id, items)
            self._rows[bundle_id] = rows
        return rows

    def refresh(self, bundles: Iterable[tuple[str, ItemTable]]) -> None:
        """Read the feature store and renew the rows of these bundles; keeps what it has if away."""
        tables = dict(bundles)
        try:
            view = self._features.catalogue(self._version)
            popular = _ids(self._features.popular(self._n_popular_live))
            trending = _ids(self._features.trending(_READ_PER_KEPT * self._n_trending))
        except (RecsysError, OSError) as error:
            logger.info("live items are kept as they were: %s", error)
            return
        kept = self._rows if self._is_known(view, popular, trending) else {}
        self._version = view.version
        self._blocked = view.blocked
        self._put |= {item.item_id for item in view.items}
        self._popular, self._trending = popular, trending
        # Apart: what was taken out goes, whether or not the neighbours can be read.
        try:
            self._neighbours.refresh(tables)
        except (RecsysError, OSError) as error:
            logger.info("live neighbours are kept as they were: %s", error)
        self._rows = {
            name: self._renewed(name, items, kept.get(name)) for name, items in tables.items()
        }

    def _is_known(
        self, view: CatalogueView, popular: tuple[str, ...], trending: tuple[str, ...]
    ) -> bool:
        # Deleted items too: a store made anew may have come to the same version.
        return (view.version, view.blocked) == (self._version, self._blocked) and (
            (popular, trending) == (self._popular, self._trending)
        )

    def _renewed(self, bundle_id: str, items: ItemTable, rows: LiveRows | None) -> LiveRows:
        """The kept rows, where there are some, with the neighbours as they are now."""
        if rows is None:
            return self._make(bundle_id, items)
        neighbours = self._neighbours.table(bundle_id)
        return rows if rows.neighbours is neighbours else replace(rows, neighbours=neighbours)

    def _make(self, bundle_id: str, items: ItemTable) -> LiveRows:
        blocked = ~items.available
        blocked[items.rows_of(tuple(self._put))] = False
        blocked[items.rows_of(tuple(self._blocked))] = True
        trending = items.rows_of(self._trending)
        return LiveRows(
            blocked,
            self._popular_rows(items, blocked),
            trending[~blocked[trending]][: self._n_trending],
            self._neighbours.table(bundle_id),
        )

    def _popular_rows(self, items: ItemTable, blocked: NDArray[np.bool_]) -> RowArray:
        live = items.rows_of(self._popular)
        rows = np.concatenate([live, items.popular_rows[: self._n_popular_kept + len(live)]])
        rows = rows[~blocked[rows]]
        return _first_of_each(rows)[: self._n_popular_kept]


def _first_of_each(rows: RowArray) -> RowArray:
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]


def _ids(ranked: Iterable[tuple[str, float]]) -> tuple[str, ...]:
    return tuple(item_id for item_id, _ in ranked)
