"""What shortens the embedded log and takes a person out of it, a bounded piece at a time.

Between two pieces writers go on: a piece holds the write lock for few milliseconds.
"""

from __future__ import annotations

import sqlite3

import msgspec

from recsys.stores.log.log_tables import end_offsets, pack, read_rows
from recsys.stores.sqlite_file import shrink, transaction

VOID = b'{"type":"void"}'
"""The value of a record whose content was taken out; followers pass over it."""
PIECE_RECORDS = 1_000
_PIECE_BYTES = 4 * 1024 * 1024
_SHRINK_PAGES = 64


class _Owner(msgspec.Struct):
    """Whose record it is; a catalogue change is nobody's."""

    type: str = ""
    user_id: str | None = None


_decoder = msgspec.json.Decoder(_Owner)


def trim_piece(connection: sqlite3.Connection, partition: int, before_offset: int) -> int:
    """Remove the oldest records below an offset, at most one piece; answers how many.

    Fewer than `PIECE_RECORDS` means that all of them are gone.
    """
    with transaction(connection):
        end = end_offsets(connection).get(partition, 0)
        stop = min(before_offset, end)
        doomed = connection.execute(
            "SELECT position FROM records WHERE position >= ? AND position < ?"
            " ORDER BY position LIMIT ?",
            (pack(partition, 0), pack(partition, stop), PIECE_RECORDS),
        ).fetchall()
        is_last = len(doomed) < PIECE_RECORDS
        begin = stop if is_last else doomed[-1][0] - pack(partition, 0) + 1
        if doomed:
            connection.execute(
                "DELETE FROM records WHERE position BETWEEN ? AND ?", (doomed[0][0], doomed[-1][0])
            )
        connection.execute(
            "UPDATE partitions SET begin_offset = max(begin_offset, ?) WHERE partition = ?",
            (begin, partition),
        )
    shrink(connection, _SHRINK_PAGES)
    return len(doomed)


def void_piece(
    connection: sqlite3.Connection, user_id: str, partition: int, start: int, stop: int
) -> tuple[int, int | None]:
    """Void the user's records of one piece; answers how many, and where to go on if at all."""
    rows = read_rows(connection, partition, start, stop, PIECE_RECORDS, _PIECE_BYTES)
    mine = [(VOID, position) for position, _, value in rows if _owner(value) == user_id]
    if mine:
        with transaction(connection):
            connection.executemany("UPDATE records SET value = ? WHERE position = ?", mine)
    return len(mine), rows[-1][0] - pack(partition, 0) + 1 if rows else None


def _owner(value: bytes) -> str | None:
    try:
        return _decoder.decode(value).user_id
    except msgspec.MsgspecError:
        return None
