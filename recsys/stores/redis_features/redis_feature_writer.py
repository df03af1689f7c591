"""The writing side of the feature store in Redis: one optimistic transaction a method.

Opened by `open_feature_writer`; any number may be open at once. A partition's offset lies
beside what it stands for and every update is compared and set on it, so that whatever is lost is
lost together and read from the log again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from recsys.errors import ConfigError, StoreError
from recsys.stores.features.feature_update import (
    FeatureContents,
    FeatureUpdate,
    ItemBucket,
    ItemCount,
    MergedUsers,
    PairTotals,
    PartitionWindows,
    PopularOrigin,
    Ranked,
    StoredPart,
)
from recsys.stores.redis_features import redis_keys as keys
from recsys.stores.redis_features.redis_contents import read_contents
from recsys.stores.redis_features.redis_link import Command, RedisLink
from recsys.stores.redis_features.redis_pairs import refresh_neighbours, sweep
from recsys.stores.redis_features.redis_update import (
    MAX_PER_COMMAND,
    merge_commands,
    parts,
    update_commands,
)
from recsys.types import UserState

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
"""The stream waits longer than a request: a batch of thousands of changes takes its time."""
_TOP_OF_STALE: Command = ("ZREVRANGE", keys.STALE, 0, 0, "WITHSCORES")


class RedisFeatureWriter:
    """The writing side of the feature store in Redis.

    Args:
        url: see `RedisLink`.
        password: likewise.

    Raises:
        ConfigError: the server throws keys away when its memory is full.
        StoreError: the server cannot be reached.
    """

    def __init__(self, url: str, password: str) -> None:
        self._link = RedisLink(url, password, TIMEOUT_S)
        self._known: set[int] = set()
        """Partitions that were seen with an offset."""
        _check_server(self._link)

    def offset(self, partition: int) -> int | None:
        """The next log offset of a partition; None before its first batch.

        Raises:
            StoreError: also once where there was one: whoever follows the log begins anew.
        """
        (value,) = self._link.ask([("GET", keys.part_key(partition))])
        part = self._part(partition, value)
        return None if part is None else part.offset

    def update(
        self,
        partition: int,
        offset: int | None,
        user_ids: Sequence[str],
        event_ids: Sequence[str],
        fold: Callable[[StoredPart], FeatureUpdate],
    ) -> FeatureUpdate | None:
        """Read what is stored, fold, store the result; None and no change at another offset."""
        users, events = list(dict.fromkeys(user_ids)), list(dict.fromkeys(event_ids))
        user_keys = [keys.user_key(user_id) for user_id in users]
        stored: FeatureUpdate | None = None

        def decide(answers: list[Any]) -> list[Command] | None:
            nonlocal stored
            part_value, buckets, top, version, *rest = answers
            before = self._before(partition, part_value, users, events, rest)
            stored = fold(before) if before.offset == offset else None
            if stored is None:
                return None
            return update_commands(
                stored,
                catalogue_version=int(version or 0),
                bucket_names=buckets,
                place=_next_place(top),
            )

        self._link.transact(
            [keys.part_key(partition), keys.CATALOGUE_VERSION, *user_keys],
            _reads_of_update(partition, user_keys, events),
            decide,
        )
        if stored is not None:
            self._known.add(partition)
            self._sweep(stored)
        return stored

    def merge_users(
        self, user_ids: Sequence[str], merge: Callable[[Mapping[str, UserState]], MergedUsers]
    ) -> MergedUsers:
        """Change users' states and the counts of the imported history; moves no offset."""
        users = list(dict.fromkeys(user_ids))
        user_keys = [keys.user_key(user_id) for user_id in users]
        merged = MergedUsers()

        def decide(answers: list[Any]) -> list[Command] | None:
            nonlocal merged
            merged = merge(keys.decode_users(users, _flat(answers)))
            return merge_commands(merged) or None

        self._link.transact(user_keys, _reads_of_users(user_keys), decide)
        return merged

    def forget_user(self, user_id: str) -> bool:
        """Remove a user's state; whether there was one. Counts of items and pairs stay."""
        (n_removed,) = self._link.ask([("UNLINK", keys.user_key(user_id))])
        return bool(n_removed)

    def windows(self, partition: int, windows_s: Collection[int]) -> PartitionWindows:
        """The item counts of one partition for some of the windows, to make lists of."""
        listing: Command = ("SMEMBERS", keys.buckets_key(partition))
        found: PartitionWindows | None = None
        while found is None:
            names = _of_windows(self._link.ask([listing])[0], windows_s)
            found = self._snapshot(partition, names, listing, windows_s)
        return found

    def most_imported(self, limit: int) -> list[tuple[str, int]]:
        """The items of the imported history with the highest counts; equal counts by item id."""
        if limit < 1:
            return []
        (flat,) = self._link.ask([("ZRANGE", keys.IMPORTED, 0, limit - 1, "WITHSCORES")])
        return [(item.decode(), -int(float(n))) for item, n in keys.fields_of(flat).items()]

    def write_popular(self, origin: PopularOrigin, ranked: Ranked) -> None:
        """Replace one popular list."""
        self._link.ask([("SET", keys.popular_key(origin), keys.encode_ranked(ranked))])

    def write_trending(self, ranked: Ranked) -> None:
        """Replace the trending list."""
        self._link.ask([("SET", keys.TRENDING, keys.encode_ranked(ranked))])

    def refresh_neighbours(
        self,
        limit: int,
        since_day: int,
        rank: Callable[[PairTotals], Mapping[str, Ranked]],
    ) -> int:
        """Make the neighbours of stale items anew, those first that wait longest; how many."""
        return refresh_neighbours(self._link, limit, since_day, rank)

    def contents(self) -> FeatureContents:
        """Everything that is stored, to compare stores with; in memory at once."""
        return read_contents(self._link)

    def close(self) -> None:
        """Close the connections."""
        self._link.close()

    def _before(
        self,
        partition: int,
        part_value: bytes | None,
        users: Sequence[str],
        events: Sequence[str],
        rest: Sequence[Any],
    ) -> StoredPart:
        """What an update depends on, from the last answers to `_reads_of_update`."""
        part = self._part(partition, part_value)
        n_reads = len(_reads_of_users(users))
        return StoredPart(
            None if part is None else part.offset,
            0 if part is None else part.watermark_ms,
            keys.decode_users(users, _flat(rest[:n_reads])),
            _seen_ms(events, _flat(rest[n_reads:])),
        )

    def _part(self, partition: int, value: bytes | None) -> keys.Part | None:
        """What is stored of a partition; notices a server that was emptied under its writer."""
        part = keys.decode_part(value)
        if part is not None:
            self._known.add(partition)
        elif partition in self._known:
            self._known.clear()
            raise StoreError(
                f"feature store {self._link.url} has lost partition {partition} and maybe more;"
                " it is filled again from lake and log"
            )
        return part

    def _snapshot(
        self, partition: int, names: list[bytes], listing: Command, windows_s: Collection[int]
    ) -> PartitionWindows | None:
        """The counts of these buckets; None where they are not the partition's any more."""
        found: PartitionWindows | None = None

        def decide(answers: list[Any]) -> list[Command] | None:
            nonlocal found
            value, listed, *hashes = answers
            if _of_windows(listed, windows_s) != names:
                found = None
                return None
            part = keys.decode_part(value)
            offset, watermark_ms = (None, 0) if part is None else (part.offset, part.watermark_ms)
            found = PartitionWindows(offset, watermark_ms, _counts(names, hashes))
            # Carried out only where nothing changed while the buckets were read.
            return [("PING",)]

        reads: list[Command] = [("GET", keys.part_key(partition)), listing]
        reads += [("HGETALL", keys.bucket_key(partition, name.decode())) for name in names]
        self._link.transact([keys.part_key(partition)], reads, decide)
        return found

    def _sweep(self, update: FeatureUpdate) -> None:
        try:
            sweep(self._link, update.partition, update.expiry)
        except StoreError as error:
            # The update is stored; what has expired is not read and goes with a later one.
            logger.warning("expired features stay until the next batch: %s", error)


def _check_server(link: RedisLink) -> None:
    """Refuse a server that evicts: without its offset a partition would be counted twice."""
    (text,) = link.ask([("INFO",)])
    info = dict(line.split(":", 1) for line in text.decode().splitlines() if ":" in line)
    policy = info.get("maxmemory_policy", "noeviction")
    if policy.startswith("allkeys"):
        raise ConfigError(
            f"feature store {link.url} has maxmemory-policy {policy}, which throws features away;"
            " expected noeviction: set it in redis.conf"
        )
    if info.get("aof_enabled") == "0":
        logger.warning(
            "feature store %s keeps no append-only file: after a restart the features are made"
            " anew; set 'appendonly yes' in redis.conf",
            link.url,
        )


def _reads_of_update(
    partition: int, user_keys: Sequence[str], event_ids: Sequence[str]
) -> list[Command]:
    return [
        ("GET", keys.part_key(partition)),
        ("SMEMBERS", keys.buckets_key(partition)),
        _TOP_OF_STALE,
        ("GET", keys.CATALOGUE_VERSION),
        *_reads_of_users(user_keys),
        *_reads_of_seen(partition, event_ids),
    ]


def _reads_of_users(user_keys: Sequence[str]) -> list[Command]:
    return [("MGET", *part) for part in parts(user_keys, MAX_PER_COMMAND)]


def _reads_of_seen(partition: int, event_ids: Sequence[str]) -> list[Command]:
    members = (keys.seen_member(event_id) for event_id in event_ids)
    head = ("ZMSCORE", keys.seen_key(partition))
    return [(*head, *part) for part in parts(members, MAX_PER_COMMAND)]


def _seen_ms(event_ids: Sequence[str], scores: Sequence[bytes | None]) -> dict[str, int]:
    pairs = zip(event_ids, scores, strict=True)
    return {event_id: int(float(score)) for event_id, score in pairs if score is not None}


def _of_windows(names: Collection[bytes], windows_s: Collection[int]) -> list[bytes]:
    return sorted(name for name in names if keys.named_bucket(name)[0] in windows_s)


def _next_place(top_of_stale: Sequence[bytes]) -> int:
    return int(float(top_of_stale[1])) + 1 if top_of_stale else 1


def _counts(names: Sequence[bytes], hashes: Sequence[Any]) -> dict[ItemBucket, ItemCount]:
    return {
        (*keys.named_bucket(name), item_id.decode()): keys.unpacked_count(packed)
        for name, flat in zip(names, hashes, strict=True)
        for item_id, packed in keys.fields_of(flat).items()
    }


def _flat(answers: Sequence[Sequence[bytes | None]]) -> list[bytes | None]:
    return [value for answer in answers for value in answer]
