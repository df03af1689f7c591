"""Empties the write-ahead log of an SQLite file, which keeps old pages until it is folded back."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

_PAUSE_S = 0.05


def empty_write_ahead(path: Path, patience_s: float = 5.0) -> bool:
    """Fold the write-ahead log back and cut it to nothing; whether it is empty now.

    A reader that stays in one transaction keeps it from being emptied.
    """
    if not path.exists():
        return True
    give_up_at_s = time.monotonic() + patience_s
    with closing(sqlite3.connect(path, timeout=_PAUSE_S, isolation_level=None)) as connection:
        while not _empty(connection):
            if time.monotonic() > give_up_at_s:
                return False
            time.sleep(_PAUSE_S)
    return True


def _empty(connection: sqlite3.Connection) -> bool:
    try:
        is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except sqlite3.OperationalError:
        return False
    return not is_busy
