"""What an update of the online features is in commands of Redis. Pure: talks to no server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

import msgspec

from recsys.events import CatalogueChange
from recsys.stores.features.feature_update import (
    Expiry,
    FeatureUpdate,
    ItemBucket,
    ItemCount,
    MergedUsers,
    PairDay,
)
from recsys.stores.redis_features import redis_keys as keys
from recsys.stores.redis_features.redis_link import Command
from recsys.types import UserState

MAX_PER_COMMAND = 500
"""Keys or members in one command: between two commands the server answers others."""

_ADD = """
for key, fields in pairs(cmsgpack.unpack(ARGV[1])) do
  for field, n in pairs(fields) do redis.call('HINCRBY', key, field, n) end
end
"""
_T = TypeVar("_T")


def update_commands(
    update: FeatureUpdate,
    *,
    catalogue_version: int,
    bucket_names: Collection[bytes],
    place: int,
) -> list[Command]:
    """Everything one batch changes.

    Args:
        catalogue_version: of the newest change before this.
        bucket_names: the partition's buckets before this.
        place: of items that become stale, behind all that wait already.
    """
    partition, expiry = update.partition, update.expiry
    part = keys.Part(
        update.next_offset, update.watermark_ms, expiry.pairs_before_day, expiry.seen_before_ms
    )
    return [
        ("SET", keys.part_key(partition), keys.encode_part(part)),
        ("SADD", keys.PARTITIONS, partition),
        *per_command(("UNLINK",), (keys.user_key(user_id) for user_id in update.forgotten)),
        *_states(update.states),
        *_item_counts(partition, update.item_counts),
        *_pairs(partition, update.pair_counts, place),
        *_catalogue(update.catalogue, catalogue_version),
        *_seen(partition, update.seen),
        *_expired_buckets(partition, expiry, {*bucket_names, *_names(update.item_counts)}),
    ]


def merge_commands(merged: MergedUsers) -> list[Command]:
    """What a part of an import changes."""
    counts: list[Command] = [
        ("ZINCRBY", keys.IMPORTED, -n, item_id) for item_id, n in merged.imported_counts.items()
    ]
    return [*_states(merged.states), *counts]


def neighbour_commands(
    item_ids: Sequence[str],
    ranked: Mapping[str, Sequence[tuple[str, float]]],
    store: str,
    version: int,
) -> list[Command]:
    """New neighbours of these items, which nobody makes any longer.

    An item whose neighbours are gone keeps its version, so that readers learn of it.

    Args:
        store: the id of what the server holds.
        version: of the newest neighbours before these.
    """
    commands: list[Command] = [
        ("SET", keys.neighbours_key(item_id), keys.encode_ranked(ranked[item_id]))
        for item_id in item_ids
        if ranked.get(item_id)
    ]
    lonely = (keys.neighbours_key(item_id) for item_id in item_ids if not ranked.get(item_id))
    return [
        *commands,
        *per_command(("UNLINK",), lonely),
        *_versions(item_ids, version),
        ("SET", keys.NEIGHBOURS_MARK, keys.encode_mark(store, version + len(item_ids))),
        *per_command(("ZREM", keys.MAKING), item_ids),
    ]


def _versions(item_ids: Sequence[str], version: int) -> Iterator[Command]:
    members = (part for own in enumerate(item_ids, version + 1) for part in own)
    return per_command(("ZADD", keys.NEIGHBOURS_ORDER), members)


def stale_commands(item_ids: Iterable[str], place: int) -> list[Command]:
    """These items wait for new neighbours, behind those that wait already."""
    members = (part for item_id in dict.fromkeys(item_ids) for part in (place, item_id))
    return list(per_command(("ZADD", keys.STALE, "NX"), members))


def per_command(head: Command, members: Iterable[str | bytes | int]) -> Iterator[Command]:
    """The same command for so many members, in parts; none for no members."""
    for part in parts(members, MAX_PER_COMMAND):
        yield (*head, *part)


def parts(values: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """The values in lists of at most `size`."""
    pending = iter(values)
    while part := list(islice(pending, size)):
        yield part


def _states(states: Iterable[UserState]) -> list[Command]:
    return [("SET", keys.user_key(s.user_id), keys.encode_user(s)) for s in states]


def _item_counts(partition: int, counts: Mapping[ItemBucket, ItemCount]) -> list[Command]:
    added: dict[str, dict[str, int]] = {}
    for (window_s, bucket_ms, item_id), count in counts.items():
        key = keys.bucket_key(partition, keys.bucket_name(window_s, bucket_ms))
        added.setdefault(key, {})[item_id] = keys.packed_count(count)
    names = sorted(_names(counts))
    return [*_added(added), *per_command(("SADD", keys.buckets_key(partition)), names)]


def _names(counts: Mapping[ItemBucket, ItemCount]) -> set[bytes]:
    buckets = {(window_s, bucket_ms) for window_s, bucket_ms, _ in counts}
    return {keys.bucket_name(*bucket).encode() for bucket in buckets}


def _pairs(partition: int, counts: Mapping[PairDay, int], place: int) -> list[Command]:
    added: dict[str, dict[str, int]] = {}
    degrees: Counter[str] = Counter()
    items_of_day: dict[int, dict[str, None]] = {}
    for (day, item_id, other_id), n in counts.items():
        field = keys.pair_field(partition, day, other_id)
        added.setdefault(keys.pairs_key(item_id), {})[field] = n
        items_of_day.setdefault(day, {})[item_id] = None
        if item_id == other_id:
            degrees[item_id] += n
    commands = _added({**added, keys.DEGREES: dict(degrees)})
    for day, item_ids in items_of_day.items():
        commands.append(("SADD", keys.days_key(partition), day))
        commands += per_command(("SADD", keys.paired_key(partition, day)), item_ids)
    return [*commands, *stale_commands((item_id for _, item_id, _ in counts), place)]


def _added(by_key: Mapping[str, Mapping[str, int]]) -> list[Command]:
    """Add to fields of hashes: a command for many, since each command is answered for itself."""
    return [
        ("EVAL", _ADD, 0, msgspec.msgpack.encode(dict(part)))
        for part in parts(by_key.items(), MAX_PER_COMMAND)
    ]


def _catalogue(changes: Sequence[CatalogueChange], version: int) -> list[Command]:
    """The newest change of an item replaces its earlier one under a new version."""
    if not changes:
        return []
    commands: list[Command] = []
    for own_version, change in enumerate(changes, version + 1):
        entry = keys.encode_change(change, own_version)
        commands += [
            ("HSET", keys.CATALOGUE, change.item_id, entry),
            ("ZADD", keys.CATALOGUE_ORDER, own_version, change.item_id),
            ("SADD" if change.deleted else "SREM", keys.CATALOGUE_GONE, change.item_id),
        ]
    return [*commands, ("SET", keys.CATALOGUE_VERSION, version + len(changes))]


def _seen(partition: int, seen: Mapping[str, int]) -> Iterator[Command]:
    members = (
        part for event_id, seen_ms in seen.items() for part in (seen_ms, keys.seen_member(event_id))
    )
    return per_command(("ZADD", keys.seen_key(partition)), members)


def _expired_buckets(
    partition: int, expiry: Expiry, bucket_names: Collection[bytes]
) -> list[Command]:
    expired = []
    for name in bucket_names:
        window_s, bucket_ms = keys.named_bucket(name)
        if bucket_ms < expiry.buckets_before_ms.get(window_s, 0):
            expired.append(name.decode())
    return [
        *per_command(("UNLINK",), (keys.bucket_key(partition, name) for name in expired)),
        *per_command(("SREM", keys.buckets_key(partition)), expired),
    ]
