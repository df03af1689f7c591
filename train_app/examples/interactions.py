"""Engagements as arrays, grouped by user and ordered in time: what training and evaluation read.

Knows nothing of the lake they come from (`examples`) or of the models that learn from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from recsys.types import Item


@dataclass(frozen=True)
class Interactions:
    """All engagements of all users, in compressed rows: user `u` owns `offsets[u]:offsets[u+1]`.

    Within a user, events are in time order; equal times keep their order of arrival.
    """

    user_ids: list[str]  # [U]
    items: list[Item]  # [N], the item table of the bundle to be: its order defines the rows
    kinds: tuple[str, ...]  # most frequent first
    offsets: NDArray[np.int64]  # [U + 1]
    rows: NDArray[np.int32]  # [M] item row
    kind_ids: NDArray[np.uint8]  # [M] index into `kinds`
    timestamps_ms: NDArray[np.int64]  # [M]
    values: NDArray[np.float32]  # [M] graded relevance, NaN where there was none
    is_prompted: NDArray[np.bool_]  # [M] true for reactions to a served slate
    lineage: dict[str, object] = field(default_factory=dict)
    """Lake versions and log offsets these were read at."""

    @property
    def n_users(self) -> int:
        """Number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """Number of items."""
        return len(self.items)

    def __len__(self) -> int:
        """Number of engagements."""
        return len(self.rows)

    def user_of_event(self) -> NDArray[np.int64]:
        """The user index of every engagement, [M]."""
        return np.repeat(np.arange(self.n_users), np.diff(self.offsets))

    def select(self, keep: NDArray[np.bool_]) -> Interactions:
        """The engagements where `keep` [M] is true; users and items stay as they are."""
        counts = np.bincount(self.user_of_event()[keep], minlength=self.n_users)
        return replace(
            self,
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            rows=self.rows[keep],
            kind_ids=self.kind_ids[keep],
            timestamps_ms=self.timestamps_ms[keep],
            values=self.values[keep],
            is_prompted=self.is_prompted[keep],
        )


def interactions_from_columns(
    user_ids: Sequence[str],
    item_ids: Sequence[str],
    kinds: Sequence[str],
    timestamps_ms: Sequence[int] | NDArray[np.int64],
    values: Sequence[float] | NDArray[np.float32] | None = None,
    items: Sequence[Item] | None = None,
    lineage: dict[str, object] | None = None,
    is_prompted: Sequence[bool] | NDArray[np.bool_] | None = None,
) -> Interactions:
    """Group columns of equal length M, in order of arrival, by user and time.

    Args:
        items: catalogue entries; an engaged item without one gets a bare entry, and catalogue
            entries nobody engaged with keep a row, so that they can be recommended.
        is_prompted: which engagements were reactions to a served slate; none where left out.
    """
    users, user_index = np.unique(np.asarray(user_ids, dtype=object), return_inverse=True)
    table = {item.item_id: item for item in items or ()}
    for item_id in dict.fromkeys(item_ids):
        table.setdefault(item_id, Item(item_id))
    row_of = {item_id: row for row, item_id in enumerate(table)}
    names, kind_index, kind_counts = np.unique(
        np.asarray(kinds, dtype=object), return_inverse=True, return_counts=True
    )
    by_count = np.argsort(-kind_counts, kind="stable")
    rank_of_kind = np.argsort(by_count, kind="stable")
    times = np.asarray(timestamps_ms, dtype=np.int64)
    order = np.lexsort((np.arange(len(times)), times, user_index))
    graded = np.full(len(times), np.nan) if values is None else np.asarray(values)
    prompted = np.zeros(len(times), np.bool_) if is_prompted is None else np.asarray(is_prompted)
    counts = np.bincount(user_index, minlength=len(users))
    rows = np.fromiter((row_of[item_id] for item_id in item_ids), np.int32, len(times))
    return Interactions(
        user_ids=[str(user) for user in users],
        items=list(table.values()),
        kinds=tuple(str(names[index]) for index in by_count),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        rows=rows[order],
        kind_ids=rank_of_kind[kind_index][order].astype(np.uint8),
        timestamps_ms=times[order],
        values=graded.astype(np.float32)[order],
        is_prompted=prompted.astype(np.bool_)[order],
        lineage=lineage or {},
    )
