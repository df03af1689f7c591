"""Settles what lies between a table that was left behind and `skipped`, which is ahead of it.

A turn that died between two tables' commits noted what it knew. Until the next one an event may
have been voided or forgotten: its offset is to be noted although the notes have gone past it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from train_app.lake.archiving.filled_table import FilledTable
from train_app.lake.event_columns import Decoded, Mask, Rows
from train_app.lake.lake_errors import lake_errors
from train_app.lake.upkeep.bounded_reading import bounded_connection

Note = tuple[int, int, int]
"""Partition, first offset, the offset after the last."""


def late_notes(decoded: Decoded, tables: Mapping[str, FilledTable]) -> Rows:
    """Notes for offsets that `skipped` is past already, and that another table still needs.

    Rows of other tables that are noted already are taken out of `decoded`: what a turn has
    noted, the next one does not decide anew.
    """
    spans = _settled_late(tables)
    if not any(_is_in(rows, spans).any() for rows in decoded.rows.values()):
        return Rows()
    noted = _noted(tables["skipped"], spans)
    single = {(p, first) for p, first, end, reason in noted if reason != "gap"}
    for name, rows in decoded.rows.items():
        if name != "skipped" and len(rows):
            places = zip(rows.partitions, rows.offsets, strict=True)
            decoded.rows[name] = rows.where(np.array([place not in single for place in places]))
    skipped = decoded.rows["skipped"]
    late = skipped.where(_is_in(skipped, spans))
    gaps = [(p, first, end) for p, first, end, reason in noted if reason == "gap"]
    wanted = [not _is_noted(note, single, gaps) for note in _notes_of(late)]
    return late.where(np.array(wanted, dtype=np.bool_))


def _settled_late(tables: Mapping[str, FilledTable]) -> dict[int, tuple[int, int]]:
    """By partition the offsets, from and to, that `skipped` is past and another table is not."""
    spans = {}
    for partition, mark in tables["skipped"].marks.items():
        lowest = min(t.marks[partition] or 0 for n, t in tables.items() if n != "skipped")
        if mark is not None and lowest < mark:
            spans[partition] = (lowest, mark)
    return spans


def _is_in(rows: Rows, spans: Mapping[int, tuple[int, int]]) -> Mask:
    partitions, offsets = np.array(rows.partitions), np.array(rows.offsets)
    found = np.zeros(len(rows), dtype=np.bool_)
    for partition, (start, stop) in spans.items():
        found |= (partitions == partition) & (offsets >= start) & (offsets < stop)
    return found


def _notes_of(rows: Rows) -> list[Note]:
    ends = [skip.end_offset for skip in rows.entries]
    return list(zip(rows.partitions, rows.offsets, ends, strict=True))


def _noted(
    skipped: FilledTable, spans: Mapping[int, tuple[int, int]]
) -> list[tuple[int, int, int, str]]:
    """What `skipped` says of these offsets."""
    places = " OR ".join(
        f"(log_partition = {p} AND log_offset < {stop} AND end_offset > {start})"
        for p, (start, stop) in spans.items()
    )
    with lake_errors("read", skipped.table.location), bounded_connection() as connection:
        skipped.table.attach(connection, "rows")
        found: list[tuple[int, int, int, str]] = connection.execute(
            f"SELECT log_partition, log_offset, end_offset, reason FROM rows WHERE {places}"
        ).fetchall()
    return found


def _is_noted(note: Note, single: set[tuple[int, int]], gaps: list[Note]) -> bool:
    partition, start, stop = note
    if stop == start + 1 and (partition, start) in single:
        return True
    return any(p == partition and a <= start and stop <= b for p, a, b in gaps)
