"""The nouns every part shares: plain frozen values, no behaviour beyond reading them.

Array legend: B requests in a batch, L history length, C candidates, K slate length, A actions,
D embedding width, N items of a bundle. A *row* is an item's position in its bundle's item table,
0..N-1; -1 marks padding and items the bundle does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.float32]
RowArray: TypeAlias = NDArray[np.int32]
Batch: TypeAlias = dict[str, NDArray[Any]]
"""What travels between stages: named arrays whose first axis is the request."""

NO_ROW = -1
"""Padding, or an item this bundle has no row for."""


class Source(IntEnum):
    """Where a candidate came from; the value is a scorer feature and its name is answered.

    Values are stored in bundles and logs: a new source gets the next one, none is given twice.
    """

    INDEX = 0
    POPULAR = 1
    FRESH = 2
    NEIGHBOURS = 3
    TRENDING = 4


class HistoryEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One engagement as the user's history keeps it.

    A msgspec struct and no dataclass: some thousand are decoded per micro-batch.
    """

    item_id: str
    kind: str
    timestamp_ms: int


@dataclass(frozen=True, slots=True)
class UserState:
    """What the feature store knows of a user when a request arrives; oldest event first."""

    user_id: str
    history: Sequence[HistoryEvent] = ()
    version: int = 0
    """Counts the changes of this state; with the user id and a bundle it names an embedding."""


@dataclass(frozen=True, slots=True)
class Item:
    """One catalogue entry."""

    item_id: str
    title: str = ""
    categories: tuple[str, ...] = ()
    creator: str = ""
    created_ms: int | None = None
    available: bool = True


@dataclass(frozen=True, slots=True)
class SlateItem:
    """One answered item, with what is needed to explain it and to learn from it."""

    item_id: str
    position: int
    score: float
    propensity: float
    source: str
    retrieval_score: float
    retrieval_rank: int
    action_probabilities: Mapping[str, float] | None = None
    title: str = ""
