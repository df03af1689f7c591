"""Counts which items follow which, without what the scorer is to predict.

A block of items at a time, because pairs are several times the engagements. Legend: M engagements,
N items.
"""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.item_successors import REACH, ItemSuccessors
from train_app.examples.interactions import Interactions
from train_app.learning.towers.sequence_batches import first_engagements

_PAIRS_AT_ONCE = 4_000_000
_MOST_ENTRIES = 20_000_000
"""Of the whole table, 160 MB, for up to ten million items."""
_MOST_PER_ITEM, _LEAST_PER_ITEM = 512, 2
_Entries: TypeAlias = tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.float32]]
_NOTHING: _Entries = (np.empty(0, np.int64), np.empty(0, np.int32), np.empty(0, np.float32))


def count_successors(
    train: Interactions, is_free: NDArray[np.bool_], negative_kinds: Collection[str]
) -> ItemSuccessors:
    """The successors of every item in users' sequences of new items.

    Args:
        is_free: [M] the engagements that label no example (`label_free`).
        negative_kinds: acts that say the user did not want the item; they follow nothing.
    """
    negative = [place for place, kind in enumerate(train.kinds) if kind in set(negative_kinds)]
    is_used = first_engagements(train) & is_free & ~np.isin(train.kind_ids, negative)
    rows, users = train.rows[is_used].astype(np.int64), train.user_of_event()[is_used]
    n_items = max(train.n_items, 1)
    n_kept = min(max(_MOST_ENTRIES // n_items, _LEAST_PER_ITEM), _MOST_PER_ITEM)
    entries = [
        _block(rows, users, low, high, n_items, n_kept)
        for low, high in _blocks(rows, train.n_items)
    ]
    sizes, other, shares = (np.concatenate(part) for part in zip(_NOTHING, *entries, strict=True))
    return ItemSuccessors(
        np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        other,
        shares,
        _prior(rows, users, train.n_items),
    )


def _blocks(rows: NDArray[np.int64], n_items: int) -> list[tuple[int, int]]:
    """Ranges of items of about `_PAIRS_AT_ONCE` pairs each."""
    n_pairs = REACH * np.bincount(rows, minlength=n_items)
    before = np.cumsum(n_pairs) - n_pairs
    bounds = np.flatnonzero(np.diff(before // _PAIRS_AT_ONCE, prepend=-1)).tolist()
    return list(pairwise([*bounds, n_items]))


def _block(
    rows: NDArray[np.int64],
    users: NDArray[np.int64],
    low: int,
    high: int,
    n_items: int,
    n_kept: int,
) -> _Entries:
    """The best successors of items in [low, high), by item: how many, which, their shares."""
    keys, weights = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    for distance in range(1, REACH + 1):
        earlier, later = rows[:-distance], rows[distance:]
        is_pair = (users[:-distance] == users[distance:]) & (earlier >= low) & (earlier < high)
        keys.append(earlier[is_pair] * n_items + later[is_pair])
        weights.append(np.full(len(keys[-1]), 1.0 / distance))
    distinct, place = np.unique(np.concatenate(keys), return_inverse=True)
    sums = np.bincount(place, np.concatenate(weights), minlength=len(distinct))
    one, other = np.divmod(distinct, n_items)
    shares = sums / np.bincount(one - low, sums, minlength=high - low)[one - low]
    order = np.lexsort((other, -shares, one))
    rank = np.arange(len(one)) - np.searchsorted(one, one)
    kept = order[rank < n_kept]
    sizes = np.bincount(one[kept] - low, minlength=high - low)
    return sizes, other[kept].astype(np.int32), shares[kept].astype(np.float32)


def _prior(rows: NDArray[np.int64], users: NDArray[np.int64], n_items: int) -> NDArray[np.float32]:
    """Share of each item among all successors, [N]; each counts once at least."""
    followed = np.ones(n_items)
    for distance in range(1, REACH + 1):
        is_pair = users[:-distance] == users[distance:]
        followed += np.bincount(rows[distance:][is_pair], minlength=n_items) / distance
    return np.asarray(followed / max(followed.sum(), 1.0), np.float32)
