"""What the models read of a user and of an item: histories and content as arrays.

Knows the feature schema and its hash; knows no model and no store.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, repeat
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from recsys.errors import FeatureSchemaMismatch
from recsys.history_columns import HistoryColumns, Times, item_ids_of, times_of
from recsys.types import NO_ROW, Batch, HistoryEvent, Item, RowArray

PADDING_KIND = 0
OTHER_KIND = 1
FIRST_KIND = 2
MAX_KINDS = 254
"""A kind's index must fit a uint8, beside padding and `other`."""

_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True)
class FeatureSchema:
    """What a bundle's models were trained to read; two bundles of one hash read the same arrays."""

    kinds: tuple[str, ...]
    history_length: int
    n_content_buckets: int
    version: int = 1

    def __post_init__(self) -> None:
        if len(self.kinds) > MAX_KINDS or len(set(self.kinds)) != len(self.kinds):
            raise FeatureSchemaMismatch(
                f"a feature schema has {len(self.kinds)} kinds, {len(set(self.kinds))} of them "
                f"distinct; expected at most {MAX_KINDS}, each once; merge the rare kinds"
            )
        if self.history_length < 1 or self.n_content_buckets < 1:
            raise FeatureSchemaMismatch(
                f"a feature schema has history_length {self.history_length} and n_content_buckets "
                f"{self.n_content_buckets}; expected at least 1 of each"
            )

    @property
    def hash(self) -> str:
        """Sixteen hexadecimal digits that change with any field."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()[:16]

    def kind_index(self) -> dict[str, int]:
        """The index of each known kind; anything else is `OTHER_KIND`."""
        return {kind: index for index, kind in enumerate(self.kinds, start=FIRST_KIND)}

    def to_json(self) -> dict[str, Any]:
        """The schema as a JSON object."""
        return {**asdict(self), "kinds": list(self.kinds)}

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> FeatureSchema:
        """The schema of a JSON object.

        Raises:
            FeatureSchemaMismatch: a field is missing, unknown or of another type.
        """
        try:
            return cls(
                kinds=tuple(str(kind) for kind in document["kinds"]),
                history_length=int(document["history_length"]),
                n_content_buckets=int(document["n_content_buckets"]),
                version=int(document["version"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureSchemaMismatch(
                f"feature schema {dict(document)!r} cannot be read ({error!r}); expected kinds, "
                "history_length, n_content_buckets and version; train the bundle again"
            ) from error


def history_arrays(
    histories: Sequence[Sequence[HistoryEvent]],
    row_of: Mapping[str, int],
    schema: FeatureSchema,
    now_ms: Sequence[int],
) -> Batch:
    """The newest known events of each user, right aligned: the newest stands in the last column.

    Args:
        histories: per request, oldest event first; events of items without a row are skipped.
        now_ms: per request, the moment that ages are counted back from.

    Returns:
        `items` int32 [B, L] (-1 is padding), `kinds` uint8 [B, L] (0 is padding) and `ages_s`
        float64 [B, L], seconds before now, never negative, 0 at padding: float32 would not tell
        an age of years to the second.
    """
    length = schema.history_length
    codes = _KindCodes(schema)
    whole = [_Events(item_ids_of(h), codes.of(h), times_of(h)) for h in histories]
    events = [user.newest(length) for user in whole]
    rows = _rows(events, row_of)
    if NO_ROW in rows and any(len(user.item_ids) > length for user in whole):
        # An event without a row takes no place: an older one takes it.
        lacking = np.unique(_users(events)[rows == NO_ROW]).tolist()
        events = [whole[n] if n in lacking else newest for n, newest in enumerate(events)]
        rows = _rows(events, row_of)
    known = np.flatnonzero(rows != NO_ROW)
    users = _users(events)[known]
    per_user = np.bincount(users, minlength=len(events))
    newer = np.cumsum(per_user)[users] - 1 - np.arange(len(known))  # how many of the same user
    known, per_user = known[newer < length], np.minimum(per_user, length)
    filled = np.arange(length) >= (length - per_user)[:, None]  # [B, L]
    batch: Batch = {
        "items": np.full(filled.shape, NO_ROW, dtype=np.int32),
        "kinds": np.full(filled.shape, PADDING_KIND, dtype=np.uint8),
        "ages_s": np.zeros(filled.shape, dtype=np.float64),
    }
    batch["items"][filled] = rows[known]
    batch["kinds"][filled] = np.frombuffer(b"".join([u.kinds for u in events]), np.uint8)[known]
    times_ms = np.frombuffer(b"".join([u.times_ms for u in events]), np.int64)[known]
    now = np.repeat(np.asarray(now_ms, dtype=np.int64), per_user)
    batch["ages_s"][filled] = np.maximum(now - times_ms, 0) / 1000.0
    return batch


@dataclass(frozen=True, slots=True)
class _Events:
    """Some of a user's events as columns, oldest first."""

    item_ids: list[str]
    kinds: bytes
    times_ms: Times

    def newest(self, n: int) -> _Events:
        if len(self.item_ids) <= n:
            return self
        return _Events(self.item_ids[-n:], self.kinds[-n:], self.times_ms[-n:])


def _rows(events: Sequence[_Events], row_of: Mapping[str, int]) -> RowArray:
    """The rows of all users' events, one user after the other."""
    item_ids = list(chain.from_iterable([user.item_ids for user in events]))
    return np.fromiter(map(row_of.get, item_ids, repeat(NO_ROW)), np.int32, len(item_ids))


def _users(events: Sequence[_Events]) -> NDArray[np.int64]:
    """Whose the events are, as places in the batch, in the order of `_rows`."""
    return np.repeat(np.arange(len(events)), [len(user.item_ids) for user in events])


class _KindCodes:
    """The schema's index of every kind, for whole histories at a time."""

    def __init__(self, schema: FeatureSchema) -> None:
        self._index = schema.kind_index()
        self._tables: dict[tuple[str, ...], bytes] = {}
        """By the kinds of a history: what each of its codes becomes."""

    def of(self, history: Sequence[HistoryEvent]) -> bytes:
        """One byte per event."""
        if not isinstance(history, HistoryColumns):
            return bytes([self._index.get(event.kind, OTHER_KIND) for event in history])
        kinds = tuple(history.kinds)
        table = self._tables.get(kinds)
        if table is None:
            table = bytes([self._index.get(kind, OTHER_KIND) for kind in kinds]).ljust(256, b"\0")
            self._tables[kinds] = table
        return history.kind_codes.translate(table)


def content_tokens(item: Item, n_buckets: int) -> list[int]:
    """The item's categories, creator and title words as hash buckets, in that order, each once."""
    words = [f"category:{category.casefold()}" for category in item.categories]
    if item.creator:
        words.append(f"creator:{item.creator.casefold()}")
    words.extend(f"title:{word}" for word in _WORD.findall(item.title.casefold()))
    hashed = (xxhash.xxh64_intdigest(word.encode("utf-8", "surrogatepass")) for word in words)
    return list(dict.fromkeys(digest % n_buckets for digest in hashed))


def content_matrix(items: Sequence[Item], n_buckets: int, max_tokens: int = 16) -> RowArray:
    """The content tokens of every item, [N, max_tokens]; -1 is padding, later tokens are cut."""
    matrix = np.full((len(items), max_tokens), NO_ROW, dtype=np.int32)
    for row, item in enumerate(items):
        tokens = content_tokens(item, n_buckets)[:max_tokens]
        matrix[row, : len(tokens)] = tokens
    return matrix
