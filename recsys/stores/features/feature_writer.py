"""The embedded feature store's writing side: one transaction a method, in one SQLite file.

Opened by `train_app.following.features.stream_features` and its parts (`load_history`,
`rebuild_features`) only; any number may be open at once, in several processes. Knows rows, not how
they are computed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import xxhash

from recsys.stores.features import feature_tables
from recsys.stores.features.feature_contents import read_contents
from recsys.stores.features.feature_file import begin_anew, inode_of, open_to_write
from recsys.stores.features.feature_history import encode_history
from recsys.stores.features.feature_pairs import (
    add_pairs,
    expire_pairs,
    pair_totals,
    stale_items,
    write_neighbours,
)
from recsys.stores.features.feature_tables import (
    IMPORTED,
    LAYOUT,
    MAX_IDS_PER_QUERY,
    POPULAR,
    TRENDING,
)
from recsys.stores.features.feature_update import (
    Expiry,
    FeatureContents,
    FeatureUpdate,
    MergedUsers,
    PairTotals,
    PartitionWindows,
    PopularOrigin,
    Ranked,
    StoredPart,
)
from recsys.stores.sqlite_file import DamagedFile, store_errors, transaction
from recsys.types import UserState

MAX_DELETED_PER_UPDATE = 2_000
"""Expired pairs and ids deleted in one update: a day's end must not stop the stream."""
_BIAS = 1 << 63


class SqliteFeatureWriter:
    """The writing side of the embedded feature store.

    A damaged file, or one of an older layout, is set aside and an empty one begun; a method that
    finds the damage still raises, for what it was to change is not there any more.

    Args:
        path: the file; made where missing.

    Raises:
        StoreError: the file cannot be opened, or holds something else.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connection = open_to_write(path)
        self._inode = inode_of(path)

    def offset(self, partition: int) -> int | None:
        """The next log offset of a partition; None before its first batch."""
        with self._errors():
            return self._part(partition)[0]

    def update(
        self,
        partition: int,
        offset: int | None,
        user_ids: Sequence[str],
        event_ids: Sequence[str],
        fold: Callable[[StoredPart], FeatureUpdate],
    ) -> FeatureUpdate | None:
        """Read what is stored, fold, store the result; None and no change at another offset."""
        with self._transaction():
            stored_offset, watermark_ms = self._part(partition)
            if stored_offset != offset:
                return None
            states = feature_tables.select_users(self._connection, user_ids)
            seen_ms = self._seen(partition, event_ids)
            update = fold(StoredPart(stored_offset, watermark_ms, states, seen_ms))
            self._write(update)
        return update

    def merge_users(
        self, user_ids: Sequence[str], merge: Callable[[Mapping[str, UserState]], MergedUsers]
    ) -> MergedUsers:
        """Change users' states and the counts of the imported history; moves no offset."""
        with self._transaction():
            merged = merge(feature_tables.select_users(self._connection, user_ids))
            self._write_states(merged.states)
            self._connection.executemany(
                "INSERT INTO imported_counts VALUES (?, ?)"
                " ON CONFLICT DO UPDATE SET n = n + excluded.n",
                list(merged.imported_counts.items()),
            )
        return merged

    def forget_user(self, user_id: str) -> bool:
        """Remove a user's state; whether there was one. Counts of items and pairs stay."""
        with self._transaction():
            query = "DELETE FROM users WHERE user_id = ?"
            return self._connection.execute(query, (user_id,)).rowcount > 0

    def windows(self, partition: int, windows_s: Collection[int]) -> PartitionWindows:
        """The item counts of one partition for some of the windows, to make lists of."""
        query = (
            "SELECT window_s, bucket_ms, item_id, positives, negatives FROM item_counts"
            f" WHERE partition = ? AND window_s IN ({feature_tables.marks(list(windows_s))})"
        )
        with self._snapshot():
            offset, watermark_ms = self._part(partition)
            rows = self._connection.execute(query, (partition, *windows_s))
            counts = {(w, b, item): (n, m) for w, b, item, n, m in rows}
        return PartitionWindows(offset, watermark_ms, counts)

    def most_imported(self, limit: int) -> list[tuple[str, int]]:
        """The items of the imported history with the highest counts; equal counts by item id."""
        query = "SELECT item_id, n FROM imported_counts ORDER BY n DESC, item_id LIMIT ?"
        with self._errors():
            return self._connection.execute(query, (limit,)).fetchall()

    def write_popular(self, origin: PopularOrigin, ranked: Ranked) -> None:
        """Replace one popular list."""
        self._write_list(POPULAR if origin == "live" else IMPORTED, ranked)

    def write_trending(self, ranked: Ranked) -> None:
        """Replace the trending list."""
        self._write_list(TRENDING, ranked)

    def refresh_neighbours(
        self,
        limit: int,
        since_day: int,
        rank: Callable[[PairTotals], Mapping[str, Ranked]],
    ) -> int:
        """Make the neighbours of stale items anew, those first that wait longest; how many."""
        # Most calls find nothing: they need no write lock.
        with self._errors():
            if not stale_items(self._connection, 1):
                return 0
        with self._transaction():
            item_ids = stale_items(self._connection, limit)
            ranked = rank(pair_totals(self._connection, item_ids, since_day))
            write_neighbours(self._connection, item_ids, ranked)
        return len(item_ids)

    def contents(self) -> FeatureContents:
        """Everything that is stored, to compare stores with; in memory at once."""
        with self._snapshot():
            return read_contents(self._connection)

    def close(self) -> None:
        """Give the file back."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Generator[None]:
        with self._errors(), transaction(self._connection):
            yield

    @contextmanager
    def _snapshot(self) -> Generator[None]:
        """Reads that belong together, without keeping others from writing."""
        with self._errors():
            self._connection.execute("BEGIN")
            try:
                yield
            finally:
                self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Generator[None]:
        """Work on the file that is there now, and begin anew where it turns out to be damaged."""
        if self._inode != inode_of(self.path):
            self._reopen()
        try:
            with store_errors(LAYOUT, self.path):
                yield
        except DamagedFile as error:
            self._connection.close()
            self._connection = begin_anew(self.path, str(error))
            self._inode = inode_of(self.path)
            raise

    def _reopen(self) -> None:
        self._connection.close()
        self._connection = open_to_write(self.path)
        self._inode = inode_of(self.path)

    def _part(self, partition: int) -> tuple[int | None, int]:
        query = "SELECT next_offset, watermark_ms FROM partitions WHERE partition = ?"
        return self._connection.execute(query, (partition,)).fetchone() or (None, 0)

    def _seen(self, partition: int, event_ids: Sequence[str]) -> dict[str, int]:
        keys = {_event_key(event_id): event_id for event_id in event_ids}
        found: dict[str, int] = {}
        listed = list(keys)
        for start in range(0, len(listed), MAX_IDS_PER_QUERY):
            part = listed[start : start + MAX_IDS_PER_QUERY]
            query = (
                "SELECT event_key, seen_ms FROM seen WHERE partition = ?"
                f" AND event_key IN ({feature_tables.marks(part)})"
            )
            rows = self._connection.execute(query, (partition, *part)).fetchall()
            found.update((keys[key], seen_ms) for key, seen_ms in rows)
        return found

    def _write(self, update: FeatureUpdate) -> None:
        partition = update.partition
        self._connection.execute(
            "INSERT OR REPLACE INTO partitions VALUES (?, ?, ?, ?, ?)",
            (
                partition,
                update.next_offset,
                update.watermark_ms,
                update.expiry.pairs_before_day,
                update.expiry.seen_before_ms,
            ),
        )
        forgotten = [(user_id,) for user_id in update.forgotten]
        self._connection.executemany("DELETE FROM users WHERE user_id = ?", forgotten)
        self._write_states(update.states)
        # In the order of the tree: neighbouring rows share their pages.
        self._connection.executemany(
            "INSERT INTO item_counts VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            " positives = positives + excluded.positives,"
            " negatives = negatives + excluded.negatives",
            [(*key, partition, *counts) for key, counts in sorted(update.item_counts.items())],
        )
        add_pairs(self._connection, partition, update.pair_counts)
        self._write_catalogue(update)
        self._connection.executemany(
            "INSERT OR REPLACE INTO seen VALUES (?, ?, ?)",
            [(partition, _event_key(i), seen_ms) for i, seen_ms in update.seen.items()],
        )
        self._expire(partition, update.expiry)

    def _write_states(self, states: Iterable[UserState]) -> None:
        self._connection.executemany(
            "INSERT INTO users VALUES (?, ?, ?) ON CONFLICT DO UPDATE"
            " SET version = excluded.version, history = excluded.history",
            [(s.user_id, s.version, encode_history(s.history)) for s in states],
        )

    def _write_catalogue(self, update: FeatureUpdate) -> None:
        """The newest change of an item replaces its earlier one under a new version."""
        if not update.catalogue:
            return
        version = feature_tables.select_catalogue_version(self._connection)
        self._connection.executemany(
            "INSERT OR REPLACE INTO catalogue VALUES (?, ?, ?, ?)",
            [
                (version + i, change.item_id, change.deleted, feature_tables.encode_fields(change))
                for i, change in enumerate(update.catalogue, 1)
            ],
        )

    def _expire(self, partition: int, expiry: Expiry) -> None:
        for window_s, before_ms in expiry.buckets_before_ms.items():
            self._connection.execute(
                "DELETE FROM item_counts WHERE window_s = ? AND bucket_ms < ? AND partition = ?",
                (window_s, before_ms, partition),
            )
        expire_pairs(self._connection, partition, expiry.pairs_before_day, MAX_DELETED_PER_UPDATE)
        self._connection.execute(
            "DELETE FROM seen WHERE (partition, event_key) IN (SELECT partition, event_key"
            f" FROM seen WHERE partition = ? AND seen_ms < ? LIMIT {MAX_DELETED_PER_UPDATE})",
            (partition, expiry.seen_before_ms),
        )

    def _write_list(self, name: str, ranked: Ranked) -> None:
        with self._transaction():
            self._connection.execute("DELETE FROM lists WHERE name = ?", (name,))
            self._connection.executemany(
                "INSERT INTO lists VALUES (?, ?, ?, ?)",
                [(name, rank, item_id, score) for rank, (item_id, score) in enumerate(ranked)],
            )


def _event_key(event_id: str) -> int:
    """64 bits of an id: a tenth of its size; two of a hundred million ids meet once in 4000."""
    return xxhash.xxh3_64_intdigest(event_id.encode()) - _BIAS
