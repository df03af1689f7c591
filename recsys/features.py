"""What the models read of a user and of an item: histories and content as arrays.

Knows the feature schema and its hash; knows no model and no store.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xxhash

from recsys.errors import FeatureSchemaMismatch
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
        float32 [B, L], seconds before now, never negative, 0 at padding.
    """
    length = schema.history_length
    kind_index = schema.kind_index()
    rows: list[int] = []
    kinds: list[int] = []
    times: list[int] = []
    counts: list[int] = []
    for history in histories:
        known = _newest_known(history, row_of, length)
        rows.extend([row for row, _ in known])
        kinds.extend([kind_index.get(event.kind, OTHER_KIND) for _, event in known])
        times.extend([event.timestamp_ms for _, event in known])
        counts.append(len(known))
    per_user = np.asarray(counts, dtype=np.int64)
    filled = np.arange(length) >= (length - per_user)[:, None]  # [B, L]
    batch: Batch = {
        "items": np.full(filled.shape, NO_ROW, dtype=np.int32),
        "kinds": np.full(filled.shape, PADDING_KIND, dtype=np.uint8),
        "ages_s": np.zeros(filled.shape, dtype=np.float32),
    }
    batch["items"][filled] = rows
    batch["kinds"][filled] = kinds
    now = np.repeat(np.asarray(now_ms, dtype=np.int64), per_user)
    batch["ages_s"][filled] = np.maximum(now - np.asarray(times, dtype=np.int64), 0) / 1000.0
    return batch


def _newest_known(
    history: Sequence[HistoryEvent], row_of: Mapping[str, int], length: int
) -> list[tuple[int, HistoryEvent]]:
    """At most `length` events whose item has a row, oldest first."""
    get = row_of.get
    tail = history[-length:]
    known = [(row, event) for event in tail if (row := get(event.item_id, NO_ROW)) >= 0]
    if len(known) == len(tail) or len(history) <= length:
        return known
    known = [(row, event) for event in history if (row := get(event.item_id, NO_ROW)) >= 0]
    return known[-length:]


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
