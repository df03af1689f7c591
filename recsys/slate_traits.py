"""What lists of items are like beside being right: how novel and how diverse their items are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.kernels.traits import fill_diversity, fill_novelty
from recsys.list_traits import ListTraits
from recsys.types import NO_ROW, RowArray


def novelty_of(traits: ListTraits, lists: RowArray) -> NDArray[np.float64]:
    """Mean self-information of a list's items in bits, [Q]; 0 for an empty list.

    Zhou et al., Solving the apparent diversity-accuracy dilemma of recommender systems, PNAS 2010.

    Args:
        lists: rows, [Q, K], -1 is padding.

    Raises:
        IndexError: a row is beyond the items.
    """
    found = np.empty(len(lists))
    fill_novelty(_checked(traits, lists), traits.bits, found)
    return found


def diversity_of(traits: ListTraits, lists: RowArray) -> NDArray[np.float64] | None:
    """1 - mean cosine of the category sets of all pairs in a list, [Q]; None without categories.

    Args:
        lists: rows, [Q, K], -1 is padding.

    Raises:
        IndexError: a row is beyond the items.
    """
    if not traits.category_bits.shape[1]:
        return None
    found = np.empty(len(lists))
    fill_diversity(_checked(traits, lists), traits.category_bits, found)
    return found


def _checked(traits: ListTraits, lists: RowArray) -> RowArray:
    """The lists as compiled loops read them."""
    if int(lists.max(initial=NO_ROW)) >= len(traits.bits):
        raise IndexError(f"a list names row {lists.max()} of {len(traits.bits)} items")
    return np.ascontiguousarray(lists, np.int32)
