"""What has been read of the log and is not in the lake yet, and what it comes to. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from recsys.stores.log.event_log import LogRecord
from train_app.lake.event_columns import Decoded, Rows, Skip, decode_records

USER_TABLES = ("engagements", "impressions", "outcomes", "shadows")
"""Log tables whose rows are of one user."""


@dataclass(slots=True)
class Stretch:
    """Records of one partition from `begin` up to `end`, with the offsets that were gone."""

    begin: int
    end: int
    records: list[LogRecord] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def extend(self, records: Sequence[LogRecord]) -> int:
        """Add what was read from `end` on; the bytes it holds."""
        for record in records:
            if record.offset > self.end:
                self.gaps.append((self.end, record.offset))
            self.end = record.offset + 1
        self.records += records
        return sum(len(record.value) for record in records)

    def skip_to(self, offset: int) -> None:
        """Everything below `offset` is gone from the log, and nothing after it was read."""
        if offset > self.end:
            self.gaps.append((self.end, offset))
            self.end = offset


class Pending:
    """The stretches of all partitions, and how much they hold."""

    def __init__(self, positions: Mapping[int, int]) -> None:
        self.stretches = {p: Stretch(offset, offset) for p, offset in positions.items()}
        self.n_records = 0
        self.n_bytes = 0
        self.since_s: float | None = None
        """When the first of it was read; None while there is nothing."""

    def add(self, partition: int, records: Sequence[LogRecord], now_s: float) -> None:
        """Records read from the end of a stretch on."""
        if records:
            self.n_bytes += self.stretches[partition].extend(records)
            self.n_records += len(records)
            self.since_s = now_s if self.since_s is None else self.since_s

    def skip_to(self, partition: int, offset: int, now_s: float) -> None:
        """Note a gap at the end of a stretch."""
        self.stretches[partition].skip_to(offset)
        self.since_s = now_s if self.since_s is None else self.since_s

    def begins(self) -> dict[int, int]:
        """What is in the lake already: the next offset of every partition."""
        return {partition: stretch.begin for partition, stretch in self.stretches.items()}

    def ends(self) -> dict[int, int]:
        """The next offset to read of every partition."""
        return {partition: stretch.end for partition, stretch in self.stretches.items()}

    def records(self) -> Iterable[LogRecord]:
        """All of them, partition by partition, in order."""
        return chain.from_iterable(stretch.records for stretch in self.stretches.values())

    def decode(self, now_ms: int) -> Decoded:
        """The rows of every table: gaps noted, and what is to be forgotten left out."""
        decoded = decode_records(self.records(), now_ms)
        skipped = decoded.rows["skipped"]
        for partition, stretch in self.stretches.items():
            for start, end in stretch.gaps:
                skipped.add(Skip(None, "gap", end, now_ms), partition, start)
        for user_id, partition, offset in decoded.forgettings:
            _forget(decoded, user_id, partition, offset, now_ms)
        return decoded


def to_skipped(decoded: Decoded, name: str, doomed: Sequence[int], reason: str, ms: int) -> None:
    """Move rows of a table, by their index, to `skipped`."""
    if not doomed:
        return
    rows, keep = decoded.rows[name], np.ones(len(decoded.rows[name]), dtype=np.bool_)
    keep[list(doomed)] = False
    for i in doomed:
        skip = Skip(rows.entries[i].event_id, reason, rows.offsets[i] + 1, ms)
        decoded.rows["skipped"].add(skip, rows.partitions[i], rows.offsets[i])
    decoded.rows[name] = rows.where(keep)


def names_user(raw: str, user_id: str) -> bool:
    """Whether the text of a bad record is about this user."""
    return any(mention in raw for mention in user_mentions(user_id))


def user_mentions(user_id: str) -> list[str]:
    """How a record's JSON may name a user."""
    quoted = {json.dumps(user_id), json.dumps(user_id, ensure_ascii=False)}
    return sorted(f'"user_id":{space}{text}' for space in ("", " ") for text in quoted)


def _forget(decoded: Decoded, user_id: str, partition: int, offset: int, now_ms: int) -> None:
    for name in (*USER_TABLES, "quarantine"):
        rows = decoded.rows[name]
        doomed = [i for i in _before(rows, partition, offset) if _is_of(rows, i, user_id)]
        to_skipped(decoded, name, doomed, "forgotten", now_ms)


def _before(rows: Rows, partition: int, offset: int) -> list[int]:
    here = (np.array(rows.partitions) == partition) & (np.array(rows.offsets) < offset)
    return np.flatnonzero(here).tolist() if len(rows) else []


def _is_of(rows: Rows, i: int, user_id: str) -> bool:
    entry = rows.entries[i]
    owner = getattr(entry, "user_id", None)
    return owner == user_id if owner is not None else names_user(entry.raw, user_id)
