"""LensKit's components as scores of every item for many histories.

Knows LensKit and item rows; not which settings are good. A user is only ever what their history
holds (fold-in), so new users and later queries are ranked as training users are.
"""

from __future__ import annotations

import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.types import FloatArray, RowArray

Options = Mapping[str, float]


@dataclass(frozen=True)
class Pairs:
    """Who engaged with what in the training part, each pair once."""

    users: NDArray[np.int64]  # [P]
    rows: NDArray[np.int64]  # [P] item rows
    n_items: int
    """Items of the catalogue, also those nobody engaged with."""

    @property
    def n_users(self) -> int:
        """Users with an engagement."""
        return len(np.unique(self.users))

    @property
    def n_known(self) -> int:
        """Items with an engagement."""
        return len(np.unique(self.rows))

    def popularity(self) -> FloatArray:
        """Users who engaged with each item, [N]."""
        return np.bincount(self.rows, minlength=self.n_items).astype(np.float32)


class QueriedScores:
    """Asks a trained component once per history."""

    def __init__(self, component: Any, popularity: FloatArray) -> None:
        from lenskit.data import ItemList, RecQuery

        self._component = component
        self._popularity = popularity
        self._known_rows = np.asarray(component.items.ids(), np.int64)  # [known]
        self._place = _places(self._known_rows, len(popularity))
        self._all = ItemList(
            item_nums=np.arange(len(self._known_rows), dtype=np.int32), vocabulary=component.items
        )
        self._list, self._query = ItemList, RecQuery

    def __call__(self, histories: Sequence[RowArray]) -> FloatArray:
        """Scores of every item, [B, N]; what the component does not score comes by popularity."""
        scores = np.full((len(histories), len(self._popularity)), np.nan, np.float32)
        with _quiet():
            for query, history in enumerate(histories):
                places = self._place[np.unique(history)]
                places = places[places >= 0]
                if not len(places):
                    continue
                items = self._list(item_nums=places, vocabulary=self._component.items)
                asked = self._query(history_items=items)
                scores[query, self._known_rows] = self._component(asked, self._all).scores()
        return behind_by_popularity(scores, self._popularity)


class MatrixScores:
    """Multiplies histories with an item-to-item matrix, many at once.

    The same numbers as asking the component, which multiplies one history at a time.
    """

    def __init__(self, known_rows: NDArray[np.int64], weights: FloatArray, popularity: FloatArray):
        self._known_rows = known_rows
        self._weights = weights
        self._popularity = popularity
        self._place = _places(known_rows, len(popularity))

    def __call__(self, histories: Sequence[RowArray]) -> FloatArray:
        """Scores of every item, [B, N]; items and histories not known come by popularity."""
        engaged = np.zeros((len(histories), len(self._known_rows) + 1), np.float32)
        for query, history in enumerate(histories):
            engaged[query, self._place[history]] = 1.0  # the last cell collects unknown items
        engaged = engaged[:, :-1]
        scores = np.full((len(histories), len(self._popularity)), np.nan, np.float32)
        scores[:, self._known_rows] = engaged @ self._weights
        scores[~engaged.any(axis=1)] = np.nan
        return behind_by_popularity(scores, self._popularity)


def item_neighbours(pairs: Pairs, options: Options, seed: int) -> QueriedScores:
    """Item-kNN: cosine of items by their users (Deshpande and Karypis, TOIS 2004).

    Args:
        options: `neighbours`, kept per item and used per score.
    """
    from lenskit.knn import ItemKNNScorer

    kept = int(options["neighbours"])
    component = ItemKNNScorer(feedback="implicit", save_nbrs=kept, max_nbrs=kept)
    return QueriedScores(_trained(component, pairs, seed), pairs.popularity())


def implicit_als(pairs: Pairs, options: Options, seed: int) -> QueriedScores:
    """iALS: weighted matrix factorisation (Hu, Koren and Volinsky, ICDM 2008)."""
    from lenskit.als import ImplicitMFScorer

    component = ImplicitMFScorer(user_embeddings=False, **options)
    return QueriedScores(_trained(component, pairs, seed), pairs.popularity())


def ease(pairs: Pairs, options: Options, seed: int) -> MatrixScores:
    """EASE: the closed-form linear autoencoder (Steck, WWW 2019)."""
    from lenskit.knn import EASEScorer

    component = _trained(EASEScorer(**options), pairs, seed)
    known_rows = np.asarray(component.items.ids(), np.int64)
    return MatrixScores(known_rows, component.weights, pairs.popularity())


def behind_by_popularity(scores: FloatArray, popularity: FloatArray) -> FloatArray:
    """Scores with what is NaN put below all others, in the order of popularity, [B, N]."""
    missing = ~np.isfinite(scores)
    if not missing.any():
        return scores
    least = np.min(scores, axis=1, where=~missing, initial=0.0, keepdims=True)
    share = popularity / (popularity.max(initial=0.0) + 1.0)  # 0 to below 1
    return np.where(missing, least - 2.0 + share, scores).astype(np.float32)


def _trained(component: Any, pairs: Pairs, seed: int) -> Any:
    import pyarrow as pa
    from lenskit.data import DatasetBuilder
    from lenskit.training import TrainingOptions

    builder = DatasetBuilder()
    with _quiet():
        builder.add_interactions(
            "engagement",
            pa.table({"user_id": pairs.users, "item_id": pairs.rows}),
            entities=["user", "item"],
            missing="insert",
            default=True,
        )
        component.train(builder.build(), TrainingOptions(rng=seed, device="cpu"))
    return component


def _places(known_rows: NDArray[np.int64], n_items: int) -> NDArray[np.int32]:
    """The place of every item row among the known ones, [N]; -1 for the others."""
    places = np.full(n_items, -1, np.int32)
    places[known_rows] = np.arange(len(known_rows))
    return places


@contextmanager
def _quiet() -> Generator[None]:
    """LensKit warns where torch has begun and where a user has no history; both are expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
