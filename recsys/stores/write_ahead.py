"""Empties the write-ahead log of an SQLite file, which keeps old pages until it is folded back."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path

ATTEMPTS = 20
_PAUSE_S = 0.1


def empty_write_ahead(path: Path) -> bool:
    """Fold the write-ahead log back and cut it to nothing; whether it is empty now.

    A reader that stays in one transaction keeps it from being emptied.
    """
    if not path.exists():
        return True
    with closing(sqlite3.connect(path, timeout=1.0, isolation_level=None)) as connection:
        for _ in range(ATTEMPTS):
            try:
                is_busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            except sqlite3.OperationalError:
                is_busy = 1
            if not is_busy:
                return True
            time.sleep(_PAUSE_S)
    return False
