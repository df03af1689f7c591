"""What changes about items while a bundle stays: what is popular now, and what was taken out.

Refreshed from the feature store in a background thread; the request path only reads arrays.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import ItemTable
from recsys.errors import RecsysError
from recsys.stores.feature_store import FeatureStore
from recsys.types import RowArray

logger = logging.getLogger("ray.serve")


@dataclass(frozen=True, slots=True)
class LiveRows:
    """The live facts in the rows of one bundle."""

    blocked: NDArray[np.bool_]  # [N], true for what must not be recommended
    popular: RowArray  # most popular first; live popularity, then the bundle's own


class LiveItems:
    """Live item facts per resident bundle.

    Args:
        features: the feature store.
        n_popular_live: items of the live popular list that are read.
        n_popular_kept: popular rows kept per bundle: enough to answer without any index.
    """

    def __init__(self, features: FeatureStore, n_popular_live: int, n_popular_kept: int) -> None:
        self._features = features
        self._n_popular_live = n_popular_live
        self._n_popular_kept = n_popular_kept
        self._version = 0
        self._blocked: frozenset[str] = frozenset()
        self._put: frozenset[str] = frozenset()
        self._popular: tuple[str, ...] = ()
        self._rows: dict[str, LiveRows] = {}

    def rows(self, bundle_id: str, items: ItemTable) -> LiveRows:
        """The live rows of a bundle; made now if the background has not seen it yet."""
        rows = self._rows.get(bundle_id)
        if rows is None:
            rows = self._make(items)
            self._rows[bundle_id] = rows
        return rows

    def refresh(self, bundles: Iterable[tuple[str, ItemTable]]) -> None:
        """Read the feature store and renew the rows of these bundles; keeps what it has if away."""
        try:
            view = self._features.catalogue(self._version)
            popular = tuple(item_id for item_id, _ in self._features.popular(self._n_popular_live))
        except (RecsysError, OSError) as error:
            logger.info("live items are kept as they were: %s", error)
            return
        is_same = view.version == self._version and popular == self._popular
        self._version = view.version
        self._blocked = view.blocked
        self._put |= {item.item_id for item in view.items}
        self._popular = popular
        kept = self._rows if is_same else {}
        self._rows = {
            bundle_id: kept.get(bundle_id) or self._make(items) for bundle_id, items in bundles
        }

    def _make(self, items: ItemTable) -> LiveRows:
        blocked = ~items.available
        blocked[items.rows_of(tuple(self._put))] = False
        blocked[items.rows_of(tuple(self._blocked))] = True
        return LiveRows(blocked, self._popular_rows(items, blocked))

    def _popular_rows(self, items: ItemTable, blocked: NDArray[np.bool_]) -> RowArray:
        live = items.rows_of(self._popular)
        rows = np.concatenate([live, items.popular_rows[: self._n_popular_kept + len(live)]])
        rows = rows[~blocked[rows]]
        return _first_of_each(rows)[: self._n_popular_kept]


def _first_of_each(rows: RowArray) -> RowArray:
    _, first = np.unique(rows, return_index=True)
    return rows[np.sort(first)]
