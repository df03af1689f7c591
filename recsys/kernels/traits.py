"""What lists of items are like, compiled."""

from __future__ import annotations

import math

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import FLOAT, NOTHING, compiled, given, written
from recsys.types import RowArray


@compiled(NOTHING, given(numba.int32, 2), given(numba.float64, 1), written(numba.float64, 1))
def fill_novelty(lists: RowArray, bits: NDArray[np.float64], novelty: NDArray[np.float64]) -> None:
    """Mean self-information of each list's items, 0 for an empty list.

    Args:
        lists: rows, [Q, K], -1 is padding.
        bits: of every item, [N].
        novelty: filled, [Q].
    """
    for query in range(len(lists)):
        total, n_items = 0.0, 0
        for place in range(lists.shape[1]):
            if lists[query, place] >= 0:
                total += bits[lists[query, place]]
                n_items += 1
        novelty[query] = total / max(n_items, 1)


@compiled(FLOAT, given(numba.int32, 1), given(numba.uint8, 2), written(numba.float64, 1))
def _likeness(
    items: RowArray, category_bits: NDArray[np.uint8], totals: NDArray[np.float64]
) -> float:
    """Sum of the cosines of all ordered pairs of different places of a list."""
    totals[:] = 0.0
    n_own = 0
    for place in range(len(items)):
        if items[place] < 0:
            continue
        own = category_bits[items[place]]
        n_categories = 0
        for byte in range(len(own)):
            for bit in range(8):
                n_categories += (own[byte] >> bit) & 1
        if n_categories == 0:
            continue
        n_own += 1
        weight = 1.0 / math.sqrt(n_categories)
        for byte in range(len(own)):
            if own[byte]:
                for bit in range(8):
                    if (own[byte] >> bit) & 1:
                        totals[8 * byte + bit] += weight
    # The sum over all ordered pairs is |sum|^2 less the sum of each one's own square.
    return np.sum(totals * totals) - n_own


@compiled(NOTHING, given(numba.int32, 2), given(numba.uint8, 2), written(numba.float64, 1))
def fill_diversity(
    lists: RowArray, category_bits: NDArray[np.uint8], found: NDArray[np.float64]
) -> None:
    """1 - mean cosine of the category sets of all pairs; 0 for a list of fewer than two items.

    Args:
        lists: rows, [Q, K], -1 is padding.
        category_bits: of every item, [N, D / 8].
        found: filled, [Q].
    """
    totals = np.empty(8 * category_bits.shape[1])
    for query in range(len(lists)):
        n_items = 0
        for place in range(lists.shape[1]):
            n_items += lists[query, place] >= 0
        if n_items < 2:
            found[query] = 0.0
            continue
        likeness = _likeness(lists[query], category_bits, totals)
        found[query] = 1.0 - likeness / (n_items * (n_items - 1))
