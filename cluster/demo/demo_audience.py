"""Who reacts to slates in the demo: the simulated world, or people made from imported data.

Nobody knows how the people of a real data set would react to a slate it never showed them, so
`DataAudience` acts by the data's own co-occurrence; its rates say how traffic flows, not how good
a bundle is.
"""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.random import Generator

from recsys.errors import DataError
from recsys.simulated.simulation import HistoryColumns, Reaction
from recsys.types import Item

MAX_USERS = 1_500
MAX_ROWS = 2_000_000
RECENT = 10
"""Engagements of a user that its reactions depend on."""
_BASE_CHANCE = 0.02
_STRENGTH = 0.6
_POSITION_BIAS = 0.7
_COLUMNS = ("user_id", "timestamp_ms", "item_id")


class Audience(Protocol):
    """People who look at slates: a simulated `World`, or a `DataAudience`."""

    user_ids: list[str]

    def react(
        self,
        user_id: str,
        item_ids: Sequence[str],
        now_ms: int,
        rng: Generator,
        *,
        remember: bool = True,
    ) -> list[Reaction]:
        """What a user does with a slate; equal generators bring equal luck."""

    def discover(self, user_id: str, now_ms: int, rng: Generator) -> str | None:
        """An item the user takes to outside any slate, if one."""


class DataAudience:
    """People who like what the people with a past like theirs liked."""

    def __init__(self, histories: Mapping[str, Sequence[str]]) -> None:
        self.user_ids = list(histories)
        self._histories = histories
        fans: defaultdict[str, set[str]] = defaultdict(set)
        for user_id, items in histories.items():
            for item_id in items:
                fans[item_id].add(user_id)
        self._fans = dict(fans)
        self._fan_lists = {item_id: sorted(users) for item_id, users in fans.items()}

    def react(
        self,
        user_id: str,
        item_ids: Sequence[str],
        now_ms: int,
        rng: Generator,
        *,
        remember: bool = True,
    ) -> list[Reaction]:
        """A click where the item is examined and shares fans with what the user knows."""
        examined, liked = rng.random((2, len(item_ids)))
        seen = 1.0 / (1.0 + np.arange(len(item_ids))) ** _POSITION_BIAS
        chances = [_BASE_CHANCE + _STRENGTH * self._closeness(user_id, item) for item in item_ids]
        clicked = (examined < seen) & (liked < np.array(chances))
        return [Reaction(item_ids[at], at, "click") for at in np.flatnonzero(clicked).tolist()]

    def discover(self, user_id: str, now_ms: int, rng: Generator) -> str | None:
        """Something that somebody engaged with who shares an item with the user."""
        own = self._histories[user_id]
        fans = self._fan_lists[own[int(rng.integers(len(own)))]]
        theirs = self._histories[fans[int(rng.integers(len(fans)))]]
        return theirs[int(rng.integers(len(theirs)))]

    def _closeness(self, user_id: str, item_id: str) -> float:
        """The greatest cosine between the item's fans and those of one recent item, 0..1."""
        fans = self._fans.get(item_id)
        if not fans:
            return 0.0
        recent = [self._fans[known] for known in self._histories[user_id][-RECENT:]]
        return max(len(fans & known) / math.sqrt(len(fans) * len(known)) for known in recent)


def audience_of_lake(lake_location: str) -> DataAudience:
    """The most active users of the imported engagements, or of the first few million of them.

    Raises:
        DataError: the lake holds none.
    """
    from deltalake import DeltaTable

    table = DeltaTable(f"{lake_location.rstrip('/')}/engagements").to_pyarrow_dataset()
    rows = (
        row
        for batch in table.to_batches(columns=list(_COLUMNS))
        for row in zip(*(batch.column(name).to_pylist() for name in _COLUMNS), strict=True)
    )
    audience = audience_of_rows(islice(rows, MAX_ROWS))
    if audience is None:
        raise DataError(f"the lake at {lake_location} holds no engagement; import some first")
    return audience


def audience_of_rows(rows: Iterable[tuple[str, int, str]]) -> DataAudience | None:
    """The most active users of rows (user, time, item), in any order; None if there are none."""
    histories: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    for user_id, moment, item_id in rows:
        histories[user_id].append((moment, item_id))
    active = sorted(histories, key=lambda user: (-len(histories[user]), user))[:MAX_USERS]
    people = {user: [item for _, item in sorted(histories[user])] for user in active}
    return DataAudience(people) if people else None


def write_history(log: HistoryColumns, path: Path) -> None:
    """Write a simulated log as the CSV that `cluster import` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["user_id", "item_id", "kind", "timestamp"])
        writer.writerows(
            zip(log.user_ids, log.item_ids, log.kinds, log.timestamps_ms.tolist(), strict=True)
        )


def write_items(items: Sequence[Item], path: Path) -> None:
    """Write a catalogue as the CSV that `cluster import --items` reads."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["item_id", "title", "categories", "creator", "created"])
        writer.writerows(
            (item.item_id, item.title, "|".join(item.categories), item.creator, item.created_ms)
            for item in items
        )
