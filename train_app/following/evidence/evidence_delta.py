"""What a batch of records adds to the sums of evidence. Knows no store.

Sums are integers, so that they do not depend on how records were split into batches.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from recsys.stores.evidence.evidence_sums import Arm, latency_bucket
from recsys.stores.evidence.evidence_tables import DAY_MS, HOUR_MS
from train_app.following.evidence.user_trail import Cell

Sums: TypeAlias = dict[str, int]
Key: TypeAlias = tuple[int | str, ...]

OTHER = "other"
NONE = "none"
MAX_NAME_CHARS = 100
_UNSAFE = str.maketrans("\0;=", "___")
NAMES_PER_SORT = {"kind": 64, "reason": 64}
"""Kinds and reasons with rows of their own, per partition."""
NAMES_PER_SEGMENT = 12
"""Values of one context key with rows of their own, per partition."""
MAX_VALUE = 1e8
"""Larger values of an engagement are cut to this, so that no sum can overflow."""


@dataclass
class EvidenceDelta:
    """Sums to add, by the key columns of each table without the partition."""

    hours: dict[Key, Sums] = field(default_factory=dict)
    kinds: dict[Key, Sums] = field(default_factory=dict)
    outcomes: dict[Key, Sums] = field(default_factory=dict)
    latencies: dict[Key, Sums] = field(default_factory=dict)
    users: dict[Key, Sums] = field(default_factory=dict)
    user_kinds: dict[Key, Sums] = field(default_factory=dict)
    shadows: dict[Key, Sums] = field(default_factory=dict)
    shadow_latencies: dict[Key, Sums] = field(default_factory=dict)
    shadow_reasons: dict[Key, Sums] = field(default_factory=dict)

    def count(
        self, user_hash: int, at_ms: int, cell: Cell, sums: Mapping[str, int], sign: int = 1
    ) -> None:
        """Add measures to the hour and to the user's day of a moment."""
        if sums:
            arm = (cell.bundle_id, cell.variant, cell.experiment)
            _add(self.hours, (at_ms - at_ms % HOUR_MS, *arm, cell.segment), sums, sign)
            _add(self.users, (user_hash, at_ms - at_ms % DAY_MS, *arm), sums, sign)

    def count_kind(
        self,
        user_hash: int,
        at_ms: int,
        cell: Cell,
        kind: str,
        sums: Mapping[str, int],
        sign: int = 1,
    ) -> None:
        """Add measures of one kind to the hour and to the user's day of a moment."""
        if sums:
            arm = (cell.bundle_id, cell.variant, cell.experiment)
            _add(self.kinds, (at_ms - at_ms % HOUR_MS, *arm, cell.segment, kind), sums, sign)
            _add(self.user_kinds, (user_hash, at_ms - at_ms % DAY_MS, *arm, kind), sums, sign)

    def count_outcome(
        self, at_ms: int, arm: Arm, status: int, reason: str, n_requests: int = 1
    ) -> None:
        """Count failed, shed or degraded requests."""
        _add(self.outcomes, (at_ms - at_ms % HOUR_MS, *arm, status, reason), {"n": n_requests}, 1)

    def count_latency(self, at_ms: int, arm: Arm, is_served: bool, latency_ms: float) -> None:
        """Count the latency of a request in its bucket."""
        key = (at_ms - at_ms % HOUR_MS, *arm, int(is_served), latency_bucket(latency_ms))
        _add(self.latencies, key, {"n": 1}, 1)

    def count_shadow(
        self, at_ms: int, shadow_id: str, sums: Mapping[str, int], reason: str | None
    ) -> None:
        """Count a shadow's answer beside the live one; a reason says why there is none."""
        key = (at_ms - at_ms % HOUR_MS, shadow_id)
        _add(self.shadows, key, sums, 1)
        if reason is not None:
            _add(self.shadow_reasons, (*key, reason), {"n": 1}, 1)

    def count_shadow_latency(
        self, at_ms: int, shadow_id: str, is_live: bool, latency_ms: float
    ) -> None:
        """Count the time of a live answer, or of its copy, in its bucket."""
        key = (at_ms - at_ms % HOUR_MS, shadow_id, int(is_live), latency_bucket(latency_ms))
        _add(self.shadow_latencies, key, {"n": 1}, 1)

    def forget_user(self, user_hash: int) -> None:
        """Drop what was to be added to a user's own rows."""
        for table in (self.users, self.user_kinds):
            for key in [key for key in table if key[0] == user_hash]:
                del table[key]

    def drop_days_before(self, day_ms: int) -> None:
        """Drop what was to be added to the days of users before a day."""
        for table in (self.users, self.user_kinds):
            for key in [key for key in table if int(key[1]) < day_ms]:
                del table[key]


class BoundedNames:
    """Names that others choose, so many of each sort that tables stay small; the rest is `other`.

    Args:
        known: the names of each sort that have rows already.
    """

    def __init__(self, known: Mapping[str, frozenset[str]]) -> None:
        self._known = {sort: set(names) for sort, names in known.items()}
        self.added: list[tuple[str, str]] = []
        """Sorts and names that are new."""

    def name(self, sort: str, name: str) -> str:
        """The name as it is counted."""
        known = self._known.setdefault(sort, set())
        if name in known:
            return name
        limit = NAMES_PER_SORT.get(sort, NAMES_PER_SEGMENT)
        if len(known) >= limit or name != safe_name(name):
            return OTHER
        known.add(name)
        self.added.append((sort, name))
        return name


def safe_name(name: str) -> str:
    """A name that every database can keep and that can stand inside a segment's name."""
    return name[:MAX_NAME_CHARS].translate(_UNSAFE) or NONE


def milli(value: float | None) -> int:
    """A value as an integer of thousandths; 0 where there is none."""
    if value is None or not math.isfinite(value):
        return 0
    return round(min(max(value, -MAX_VALUE), MAX_VALUE) * 1000)


def trait_sums(diversity: float | None, novelty: float | None) -> Sums:
    """The `TRAIT_MEASURES` of one slate; what it does not say adds nothing, its count neither."""
    said = {"diversity": diversity, "novelty": novelty}
    sums: Sums = {}
    for name, value in said.items():
        if value is not None and math.isfinite(value):
            sums |= {f"{name}_slates": 1, f"{name}_milli": milli(value)}
    return sums


def _add(table: dict[Key, Sums], key: Key, sums: Mapping[str, int], sign: int) -> None:
    row = table.get(key)
    if row is None:
        table[key] = {name: sign * n for name, n in sums.items()}
        return
    for name, n in sums.items():
        row[name] = row.get(name, 0) + sign * n
