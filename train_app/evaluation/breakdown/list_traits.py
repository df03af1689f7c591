"""What a ranked list is like beside being right: how novel and how diverse its items are.

Knows the training part's counts and the items' categories or vectors; nothing of targets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.types import FloatArray, Item, RowArray
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.metrics import Values

MAX_CATEGORIES = 256
"""Rarer categories say nothing about how alike two items are."""
_MIN_SHARE_WITH_CATEGORIES = 0.5


@dataclass(frozen=True)
class ListTraits:
    """Facts of the items that lists are described with."""

    bits: Values
    """[N] self-information of an engagement with each item."""
    items: Sequence[Item]
    categories: tuple[str, ...]
    """The columns of the items' directions; none where the catalogue has too few."""

    @classmethod
    def of(cls, held_out: HeldOut) -> ListTraits:
        """From the training part and the catalogue."""
        items = held_out.interactions.items
        counts = Counter(name for item in items for name in set(item.categories))
        n_with = sum(bool(item.categories) for item in items)
        enough = n_with >= _MIN_SHARE_WITH_CATEGORIES * len(items)
        names = [name for name, _ in counts.most_common(MAX_CATEGORIES)] if enough else []
        return cls(self_information(held_out), items, tuple(names))

    def novelty(self, lists: RowArray) -> Values:
        """Mean self-information of a list's items in bits, [Q]; 0 for an empty list.

        Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems,
        PNAS 2010.
        """
        filled = lists >= 0
        total = np.where(filled, self.bits[np.maximum(lists, 0)], 0.0).sum(axis=1)
        return np.asarray(total / np.maximum(filled.sum(axis=1), 1))

    def diversity(self, lists: RowArray) -> Values | None:
        """1 - mean cosine of the category sets of all pairs in a list, [Q]; None without any."""
        if not self.categories:
            return None
        shown = np.unique(lists[lists >= 0])
        column = {name: place for place, name in enumerate(self.categories)}
        directions = np.zeros((len(shown) + 1, len(column)), np.float32)
        for place, row in enumerate(shown):
            known = [column[name] for name in self.items[row].categories if name in column]
            directions[place, known] = 1.0
        # Padding points at the last row, which is of no category and counts as no item.
        places = np.where(lists >= 0, np.searchsorted(shown, lists), len(shown))
        return diversity(directions, places, lists >= 0)


def self_information(held_out: HeldOut) -> Values:
    """-log2 of the share of training users who engaged with each item, [N], in bits.

    One more engagement and user than there were, so that an unknown item is finite.
    """
    data = held_out.interactions
    users = data.user_of_event()[held_out.is_train]
    pairs = np.unique(users * data.n_items + data.rows[held_out.is_train])
    n_engaged = np.bincount(pairs % max(1, data.n_items), minlength=data.n_items)
    return np.asarray(-np.log2((n_engaged + 1) / (len(np.unique(users)) + 1)))


def diversity(
    directions: FloatArray, places: NDArray[np.intp], filled: NDArray[np.bool_]
) -> Values:
    """1 - mean cosine of all pairs of a list, [Q]; 0 for a list of fewer than two items.

    Args:
        directions: [S, D]; a row of zeros is like nothing.
        places: [Q, K] the row of `directions` of each item.
        filled: [Q, K] false is padding.
    """
    norms = np.linalg.norm(directions, axis=1, keepdims=True)
    units = np.divide(directions, norms, out=np.zeros_like(directions), where=norms > 0)
    totals = np.zeros((len(places), units.shape[1]), np.float64)
    own = np.zeros(len(places))
    for column in range(places.shape[1]):  # the sum of all pairs is |sum|^2 - sum of |each|^2
        vectors = np.where(filled[:, column, None], units[places[:, column]], 0.0)
        totals += vectors
        own += np.einsum("qd,qd->q", vectors, vectors)
    n_filled = filled.sum(axis=1)
    n_pairs = n_filled * (n_filled - 1)
    alike = np.divide(
        np.einsum("qd,qd->q", totals, totals) - own,
        n_pairs,
        out=np.ones(len(places)),
        where=n_pairs > 0,
    )
    return np.asarray(1.0 - alike)
