"""What one batch of one partition changes in the online features, and what a store does with it.

Types and the writer's protocol only: what events mean is
`train_app.following.features.feature_fold`, how it is kept is each store's own. The one writer of
what is named here is `train_app.following.features.stream_features` with its parts, `load_history`
for imports among them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias

from recsys.events import CatalogueChange
from recsys.types import UserState

PopularOrigin = Literal["live", "import"]
Ranked: TypeAlias = Sequence[tuple[str, float]]
"""Item ids with their scores, best first."""
ItemBucket: TypeAlias = tuple[int, int, str]
"""Window in seconds, start of the bucket in ms, item id."""
ItemCount: TypeAlias = tuple[int, int]
"""Engagements of all kinds but the negative ones, and of the negative ones."""
PairDay: TypeAlias = tuple[int, str, str]
"""Day since 1970 (UTC), item id, other item id. Both directions of a pair are there; the same item
twice holds in how many pairs it is."""


@dataclass(frozen=True, slots=True)
class StoredPart:
    """What the store holds before a batch of one partition, as far as the batch needs it."""

    offset: int | None
    """The next log offset of the partition; None before its first batch."""
    watermark_ms: int = 0
    """The newest event time of the partition; 0 before the first event."""
    states: Mapping[str, UserState] = field(default_factory=dict)
    """The stored states among the users asked for."""
    seen_ms: Mapping[str, int] = field(default_factory=dict)
    """The remembered ids among the event ids asked for, with what was stored for them in `seen`."""


@dataclass(frozen=True, slots=True)
class Expiry:
    """What has left every window of one partition; how soon it leaves the disk is the store's."""

    buckets_before_ms: Mapping[int, int] = field(default_factory=dict)
    """By window in seconds, of the windows whose bound has moved: item buckets that start before
    this are deleted."""
    pairs_before_day: int = 0
    """Pair counts of days before this are deleted, and their items' neighbours made anew."""
    seen_before_ms: int = 0
    """Event ids stored with less than this are deleted; the fold ignores them already."""


@dataclass(frozen=True, slots=True)
class FeatureUpdate:
    """Everything one batch of one partition changes; stored in one transaction or not at all."""

    partition: int
    next_offset: int
    watermark_ms: int = 0
    forgotten: tuple[str, ...] = ()
    """Users whose stored state is removed, before `states` are written."""
    states: tuple[UserState, ...] = ()
    """The new states, whole; each user once."""
    item_counts: Mapping[ItemBucket, ItemCount] = field(default_factory=dict)
    """What to add to the partition's counts."""
    pair_counts: Mapping[PairDay, int] = field(default_factory=dict)
    """What to add to the partition's pairs; the items named first are marked as stale."""
    catalogue: tuple[CatalogueChange, ...] = ()
    """In log order; each gets the next version of the store-wide catalogue."""
    seen: Mapping[str, int] = field(default_factory=dict)
    """Event ids to remember, with the partition's watermark when they were counted."""
    expiry: Expiry = Expiry()
    n_repeated: int = 0
    """Events of the batch that were counted before; not stored."""


@dataclass(frozen=True, slots=True)
class MergedUsers:
    """What a part of an import changes; stored in one transaction or not at all."""

    states: tuple[UserState, ...] = ()
    imported_counts: Mapping[str, int] = field(default_factory=dict)
    """What to add to the counts of the imported history, by item id."""


@dataclass(frozen=True, slots=True)
class PartitionWindows:
    """Item counts of one partition, in one snapshot with its offset."""

    offset: int | None
    watermark_ms: int = 0
    item_counts: Mapping[ItemBucket, ItemCount] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PairTotals:
    """Pair counts summed over partitions and days, for the items whose neighbours are made."""

    pairs: Mapping[str, Mapping[str, int]]
    """By item: its partners with the number of pairs; without itself, empty where none is left."""
    degrees: Mapping[str, int]
    """By item, of every item named in `pairs` on either side: in how many pairs it is."""


@dataclass(frozen=True, slots=True)
class FeatureContents:
    """Everything that is stored but the derived lists, in the same form for every store.

    Expired counts are left out, whether they are deleted yet or not.
    """

    partitions: Mapping[int, tuple[int, int]]
    """By partition: next offset and watermark in ms."""
    states: Mapping[str, UserState]
    item_counts: Mapping[tuple[int, ItemBucket], ItemCount]
    """By partition and bucket."""
    pair_counts: Mapping[tuple[int, PairDay], int]
    """By partition and day."""
    catalogue: Mapping[str, tuple[bool, str, tuple[str, ...], str, int | None]]
    """By item id: deleted, title, categories, creator, created_ms. Versions are left out: they
    count changes in order of arrival over all partitions."""
    imported_counts: Mapping[str, int]
    n_seen: Mapping[int, int]
    """By partition: remembered event ids."""


class FeatureWriter(Protocol):
    """The side of a feature store that its one writer uses; several may be open at once.

    Every method is one transaction: others see all of it or nothing, and a method that raises
    `StoreError` has changed nothing.
    """

    def offset(self, partition: int) -> int | None:
        """The next log offset of a partition; None before its first batch."""

    def update(
        self,
        partition: int,
        offset: int | None,
        user_ids: Sequence[str],
        event_ids: Sequence[str],
        fold: Callable[[StoredPart], FeatureUpdate],
    ) -> FeatureUpdate | None:
        """Read what is stored, fold, store the result; None and no change at another offset.

        Args:
            offset: what the caller read from: the stored offset has to be this.
            user_ids: whose states the fold gets.
            event_ids: which remembered ids the fold gets.
            fold: pure; may be called again after a conflict.
        """

    def merge_users(
        self, user_ids: Sequence[str], merge: Callable[[Mapping[str, UserState]], MergedUsers]
    ) -> MergedUsers:
        """Change users' states and the counts of the imported history; moves no offset."""

    def forget_user(self, user_id: str) -> bool:
        """Remove a user's state; whether there was one. Counts of items and pairs stay."""

    def windows(self, partition: int, windows_s: Collection[int]) -> PartitionWindows:
        """The item counts of one partition for some of the windows, to make lists of."""

    def most_imported(self, limit: int) -> list[tuple[str, int]]:
        """The items of the imported history with the highest counts; equal counts by item id."""

    def write_popular(self, origin: PopularOrigin, ranked: Ranked) -> None:
        """Replace one popular list."""

    def write_trending(self, ranked: Ranked) -> None:
        """Replace the trending list."""

    def refresh_neighbours(
        self,
        limit: int,
        since_day: int,
        rank: Callable[[PairTotals], Mapping[str, Ranked]],
    ) -> int:
        """Make the neighbours of stale items anew, those first that wait longest; how many.

        An item is stale from an update that names it first in `pair_counts`, or that expires a
        pair of it, until this has stored its neighbours. An empty ranking removes the entry.

        Args:
            limit: items at most.
            since_day: pairs of earlier days do not count.
            rank: pure; may be called again after a conflict.
        """

    def contents(self) -> FeatureContents:
        """Everything that is stored, to compare stores with; in memory at once."""

    def close(self) -> None:
        """Give the store back."""
