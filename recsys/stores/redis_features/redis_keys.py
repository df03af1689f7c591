"""The layout of the online features in Redis: the name of every key and the form of every value.

The layout's version is part of every name, so that programs of two layouts never read each other's
values. Written by `redis_feature_writer` only. P is a partition, W a window in seconds:

    fw1:partitions       set: partitions that have an offset
    fw1:part:P           offset, watermark and expiry bounds
    fw1:user:ID          a user's version and history
    fw1:buckets:P        set: "W:START" of the partition's item buckets
    fw1:bucket:P:W:START hash: item id to both counts
    fw1:seen:P           sorted set: 64 bits of an event id, by watermark
    fw1:pairs:ID         hash: "P:DAY:OTHER" to the number of pairs with the other item
    fw1:days:P           set: days that have pairs
    fw1:paired:P:DAY     set: items with pairs on the day
    fw1:degrees          hash: item id to the number of pairs it is in
    fw1:stale            sorted set: items whose neighbours wait to be made, by time of waiting
    fw1:making           the same, while somebody makes them
    fw1:neighbours:ID    an item's neighbours with their scores
    fw1:neighbours-order sorted set: item id by the version of its neighbours
    fw1:neighbours-mark  the store's own id, and the newest of those versions
    fw1:popular:ORIGIN   a popular list; fw1:trending likewise
    fw1:imported         sorted set: item id by its count, negated
    fw1:catalogue        hash: item id to its newest change
    fw1:catalogue:order  sorted set: item id by version
    fw1:catalogue:gone   set: deleted items
    fw1:catalogue:version
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec
import xxhash

from recsys.errors import StoreError
from recsys.events import CatalogueChange
from recsys.stores.features.feature_history import ColumnsForm, RowsForm, stored_form
from recsys.types import Item, UserState

_T = TypeVar("_T")

ALL_KEYS = "fw1:*"
PARTITIONS = "fw1:partitions"
DEGREES = "fw1:degrees"
STALE = "fw1:stale"
MAKING = "fw1:making"
NEIGHBOURS_ORDER = "fw1:neighbours-order"
NEIGHBOURS_MARK = "fw1:neighbours-mark"
TRENDING = "fw1:trending"
IMPORTED = "fw1:imported"
CATALOGUE = "fw1:catalogue"
CATALOGUE_ORDER = "fw1:catalogue:order"
CATALOGUE_GONE = "fw1:catalogue:gone"
CATALOGUE_VERSION = "fw1:catalogue:version"

NEGATIVE_UNIT = 1 << 31
"""Both counts of an item lie in one integer, the negative one in units of this."""


class Part(msgspec.Struct, array_like=True, frozen=True):
    """What is stored of a partition as a whole."""

    offset: int
    watermark_ms: int
    pairs_before_day: int
    seen_before_ms: int


class CatalogueEntry(msgspec.Struct, array_like=True, frozen=True):
    """The newest change of an item."""

    version: int
    deleted: bool
    title: str
    categories: tuple[str, ...]
    creator: str
    created_ms: int | None

    def item(self, item_id: str) -> Item:
        """The item it describes."""
        return Item(item_id, self.title, self.categories, self.creator, self.created_ms)


_encoder = msgspec.msgpack.Encoder()
_part_decoder = msgspec.msgpack.Decoder(Part)
_user_decoder = msgspec.msgpack.Decoder(tuple[int, ColumnsForm])
_user_of_rows_decoder = msgspec.msgpack.Decoder(tuple[int, RowsForm])
_ranked_decoder = msgspec.msgpack.Decoder(list[tuple[str, float]])
_mark_decoder = msgspec.msgpack.Decoder(tuple[str, int])
_entry_decoder = msgspec.msgpack.Decoder(CatalogueEntry)


def part_key(partition: int) -> str:
    """Where a partition's offset is: what every update of it is compared and set on."""
    return f"fw1:part:{partition}"


def user_key(user_id: str) -> str:
    """Where a user's state is; no other key has the user's id in its name or value."""
    return f"fw1:user:{user_id}"


def buckets_key(partition: int) -> str:
    """Which item buckets a partition has."""
    return f"fw1:buckets:{partition}"


def bucket_name(window_s: int, bucket_ms: int) -> str:
    """A bucket as a member of `buckets_key`."""
    return f"{window_s}:{bucket_ms}"


def named_bucket(name: bytes) -> tuple[int, int]:
    """Window and start of a bucket's name."""
    window_s, _, bucket_ms = name.partition(b":")
    return int(window_s), int(bucket_ms)


def bucket_key(partition: int, name: str) -> str:
    """Where the counts of a bucket are."""
    return f"fw1:bucket:{partition}:{name}"


def seen_key(partition: int) -> str:
    """Where a partition's remembered event ids are."""
    return f"fw1:seen:{partition}"


def seen_member(event_id: str) -> bytes:
    """64 bits of an id: a quarter of its size; two of a hundred million ids meet once in 4000."""
    return xxhash.xxh3_64_digest(event_id.encode())


def pairs_key(item_id: str) -> str:
    """Where an item's pairs are."""
    return f"fw1:pairs:{item_id}"


def pair_field(partition: int, day: int, other_id: str) -> str:
    """One partner of an item on a day, as a field of `pairs_key`."""
    return f"{partition}:{day}:{other_id}"


def named_pair(field: bytes) -> tuple[int, int, str]:
    """Partition, day and other item of a field."""
    partition, day, other_id = field.split(b":", 2)
    return int(partition), int(day), other_id.decode()


def days_key(partition: int) -> str:
    """Which days a partition has pairs of."""
    return f"fw1:days:{partition}"


def paired_key(partition: int, day: int) -> str:
    """Which items have pairs on a day."""
    return f"fw1:paired:{partition}:{day}"


def neighbours_key(item_id: str) -> str:
    """Where an item's neighbours are."""
    return f"fw1:neighbours:{item_id}"


def popular_key(origin: str) -> str:
    """Where a popular list is."""
    return f"fw1:popular:{origin}"


def encode_part(part: Part) -> bytes:
    """The value of `part_key`."""
    return _encoder.encode(part)


def decode_part(value: bytes | None) -> Part | None:
    """What `part_key` holds; None before the first batch."""
    return None if value is None else _decoded(_part_decoder, value, "a partition's offset")


def encode_user(state: UserState) -> bytes:
    """The value of `user_key`."""
    return _encoder.encode((state.version, stored_form(state.history)))


def decode_users(user_ids: Sequence[str], values: Sequence[bytes | None]) -> dict[str, UserState]:
    """The stored states among these users."""
    states = {}
    try:
        for user_id, value in zip(user_ids, values, strict=True):
            if value is not None:
                states[user_id] = _decoded_user(user_id, value)
    except msgspec.DecodeError as error:
        raise _damaged("a user's history", error) from error
    return states


def encode_ranked(ranked: Iterable[tuple[str, float]]) -> bytes:
    """The value of a list: item ids with scores, best first."""
    return _encoder.encode([(item_id, float(score)) for item_id, score in ranked])


def decode_ranked(value: bytes | None) -> list[tuple[str, float]]:
    """What a list's key holds; empty where it does not exist."""
    return [] if value is None else _decoded(_ranked_decoder, value, "a list of items")


def encode_mark(store: str, version: int) -> bytes:
    """The value of `NEIGHBOURS_MARK`."""
    return _encoder.encode((store, version))


def decode_mark(value: bytes | None) -> tuple[str, int]:
    """The store's id and the newest version of neighbours; empty and 0 before the first."""
    return ("", 0) if value is None else _decoded(_mark_decoder, value, "a version")


def encode_change(change: CatalogueChange, version: int) -> bytes:
    """The value of an item in `CATALOGUE`."""
    entry = CatalogueEntry(
        version,
        change.deleted,
        change.title,
        change.categories,
        change.creator,
        change.created_ms,
    )
    return _encoder.encode(entry)


def decode_entry(value: bytes) -> CatalogueEntry:
    """What `CATALOGUE` holds of an item."""
    return _decoded(_entry_decoder, value, "an item of the catalogue")


def packed_count(count: tuple[int, int]) -> int:
    """Both counts of an item as one integer that can be added to."""
    return count[0] + count[1] * NEGATIVE_UNIT


def unpacked_count(packed: bytes) -> tuple[int, int]:
    """The counts in a sum of `packed_count`s."""
    n_negative, n_positive = divmod(int(packed), NEGATIVE_UNIT)
    return n_positive, n_negative


def fields_of(flat: Sequence[bytes]) -> Mapping[bytes, bytes]:
    """A hash, or a sorted set with its scores, as the server answers it: name, value, name, ..."""
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _decoded_user(user_id: str, value: bytes) -> UserState:
    try:
        version, columns = _user_decoder.decode(value)
    except msgspec.ValidationError:
        version, rows = _user_of_rows_decoder.decode(value)
        return UserState(user_id, rows, version)
    return UserState(user_id, columns.columns(), version)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], value: bytes, what: str) -> _T:
    try:
        return decoder.decode(value)
    except msgspec.DecodeError as error:
        raise _damaged(what, error) from error


def _damaged(what: str, error: Exception) -> StoreError:
    return StoreError(
        f"the feature store in redis holds {what} that cannot be read ({error}); empty the"
        " database, and the feature workers make it anew from lake and log"
    )
