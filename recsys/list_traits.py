"""What items are described with beside being right: how novel and of which categories they are.

Lists of them are described by `recsys.slate_traits`. Nothing of targets, users or stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recsys.types import NO_ROW

Values: TypeAlias = NDArray[np.float64]
MAX_CATEGORIES = 256
"""Rarer categories say nothing about how alike two items are."""
_MIN_SHARE_WITH_CATEGORIES = 0.5


@dataclass(frozen=True, slots=True)
class ListTraits:
    """Facts of the items that lists are described with."""

    bits: Values
    """[N] self-information of an engagement with each item."""
    category_bits: NDArray[np.uint8]
    """[N, D / 8] each item's set of the D frequent categories; D is 0 where too few have any."""

    @classmethod
    def of(
        cls, categories: Sequence[Sequence[str]], n_engaged: ArrayLike, n_all: float
    ) -> ListTraits:
        """From what is known of every item, by row.

        Args:
            categories: [N] of each item.
            n_engaged: [N] who or what engaged with each item.
            n_all: of how many, in the same unit.
        """
        return cls(self_information(n_engaged, n_all), _category_bits(categories))

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.bits.nbytes + self.category_bits.nbytes


def self_information(n_engaged: ArrayLike, n_all: float) -> Values:
    """-log2 of the share who engaged with each item, [N], in bits.

    One more engagement and one more of all than there were, so that an unknown item is finite.
    """
    return np.asarray(-np.log2((np.asarray(n_engaged, np.float64) + 1) / (n_all + 1)))


def _category_bits(categories: Sequence[Sequence[str]]) -> NDArray[np.uint8]:
    n_items = len(categories)
    lengths = np.fromiter((len(names or ()) for names in categories), np.int64, n_items)
    if np.count_nonzero(lengths) < _MIN_SHARE_WITH_CATEGORIES * n_items:
        return np.zeros((n_items, 0), np.uint8)
    code_of: dict[str, int] = {}
    flat = chain.from_iterable(names for names in categories if names)
    codes = np.fromiter((code_of.setdefault(name, len(code_of)) for name in flat), np.int64)
    # An item that names a category twice has it once.
    pairs = np.unique(np.repeat(np.arange(n_items), lengths) * len(code_of) + codes)
    rows, codes = np.divmod(pairs, max(1, len(code_of)))
    counts = np.bincount(codes, minlength=len(code_of)).tolist()
    # Ties by name: the same items in another order make the same sets.
    frequent = sorted(code_of, key=lambda name: (-counts[code_of[name]], name))[:MAX_CATEGORIES]
    place_of = np.full(len(code_of), NO_ROW, np.int64)
    place_of[[code_of[name] for name in frequent]] = np.arange(len(frequent))
    places = place_of[codes]
    rows, places = rows[places >= 0], places[places >= 0]
    bits = np.zeros((n_items, -(-len(frequent) // 8)), np.uint8)
    np.bitwise_or.at(bits, (rows, places >> 3), (128 >> (places & 7)).astype(np.uint8))
    return bits
