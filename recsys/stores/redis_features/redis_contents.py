"""Everything the feature store in Redis holds, to compare stores with; all of it in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recsys.stores.features.feature_update import FeatureContents, ItemBucket, ItemCount, PairDay
from recsys.stores.redis_features import redis_keys as keys
from recsys.stores.redis_features.redis_keys import Part
from recsys.stores.redis_features.redis_link import Command, RedisLink
from recsys.stores.redis_features.redis_update import MAX_PER_COMMAND, parts
from recsys.types import UserState

_SCANNED = 1_000


def read_contents(link: RedisLink) -> FeatureContents:
    """The contents; a mixture of before and after where somebody writes meanwhile."""
    (members,) = link.ask([("SMEMBERS", keys.PARTITIONS)])
    numbers = sorted(map(int, members))
    values = link.ask([("GET", keys.part_key(partition)) for partition in numbers])
    decoded = (keys.decode_part(value) for value in values)
    stored = {p: part for p, part in zip(numbers, decoded, strict=True) if part is not None}
    catalogue, imported = link.ask(
        [("HGETALL", keys.CATALOGUE), ("ZRANGE", keys.IMPORTED, 0, -1, "WITHSCORES")]
    )
    return FeatureContents(
        partitions={p: (part.offset, part.watermark_ms) for p, part in stored.items()},
        states=_states(link),
        item_counts=_item_counts(link, numbers),
        pair_counts=_pair_counts(link, stored),
        catalogue={
            item_id.decode(): (e.deleted, e.title, e.categories, e.creator, e.created_ms)
            for item_id, value in keys.fields_of(catalogue).items()
            for e in [keys.decode_entry(value)]
        },
        imported_counts={
            item_id.decode(): -int(float(n)) for item_id, n in keys.fields_of(imported).items()
        },
        n_seen=_n_seen(link, stored),
    )


def _states(link: RedisLink) -> dict[str, UserState]:
    prefix = keys.user_key("")
    states: dict[str, UserState] = {}
    for names in parts(_scan(link, prefix), MAX_PER_COMMAND):
        (values,) = link.ask([("MGET", *names)])
        states |= keys.decode_users([name.removeprefix(prefix) for name in names], values)
    return states


def _item_counts(
    link: RedisLink, partitions: Sequence[int]
) -> dict[tuple[int, ItemBucket], ItemCount]:
    counts: dict[tuple[int, ItemBucket], ItemCount] = {}
    for partition in partitions:
        (names,) = link.ask([("SMEMBERS", keys.buckets_key(partition))])
        reads = [("HGETALL", keys.bucket_key(partition, name.decode())) for name in names]
        for name, flat in zip(names, link.ask(reads), strict=True):
            for item_id, packed in keys.fields_of(flat).items():
                bucket = (*keys.named_bucket(name), item_id.decode())
                counts[partition, bucket] = keys.unpacked_count(packed)
    return counts


def _pair_counts(link: RedisLink, stored: dict[int, Part]) -> dict[tuple[int, PairDay], int]:
    prefix = keys.pairs_key("")
    counts: dict[tuple[int, PairDay], int] = {}
    for names in parts(_scan(link, prefix), MAX_PER_COMMAND):
        answers = link.ask([("HGETALL", name) for name in names])
        for name, flat in zip(names, answers, strict=True):
            for field, n in keys.fields_of(flat).items():
                partition, day, other_id = keys.named_pair(field)
                if partition in stored and day >= stored[partition].pairs_before_day:
                    pair = (day, name.removeprefix(prefix), other_id)
                    counts[partition, pair] = int(n)
    return counts


def _n_seen(link: RedisLink, stored: dict[int, Part]) -> dict[int, int]:
    reads: list[Command] = [
        ("ZCOUNT", keys.seen_key(partition), part.seen_before_ms, "+inf")
        for partition, part in stored.items()
    ]
    return dict(zip(stored, map(int, link.ask(reads)), strict=True))


def _scan(link: RedisLink, prefix: str) -> Iterator[str]:
    """Every key that starts so; a key may come twice."""
    cursor: Any = 0
    while True:
        ((cursor, names),) = link.ask([("SCAN", cursor, "MATCH", f"{prefix}*", "COUNT", _SCANNED)])
        yield from (name.decode() for name in names)
        if int(cursor) == 0:
            return
