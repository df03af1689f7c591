"""How a connection to Postgres is opened: few of them, none that hangs, writers one after another.

Knows connections alone; which tables stand behind them is the stores'. What SQLite does with its
write lock, an advisory lock of the database does here, so that a change that is decided on what
was read in its own transaction means the same on both.
"""

from __future__ import annotations

import os
import weakref
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.pool import ConnectionPoolEntry

POOL_SIZE = 1
"""Connections an engine keeps; each of its users works in one thread."""
POOL_OVERFLOW = 4
"""Connections it may open beyond that for a moment."""
POOL_WAIT_S = 5.0
RECYCLE_S = 1_800
"""A kept connection older than this is made anew, so that a moved server is found."""
CONNECT_TIMEOUT_S = 3
_SILENCE_MS = 5_000
"""What was sent and not acknowledged for so long ends the connection."""
_WRITE_LOCK = 0x666C7977
"""One number per meaning of the lock in a database: who changes the control store."""


def open_postgres(url: URL, *, writes: bool, is_durable: bool, wait_ms: int) -> Engine:
    """A lazily connecting engine.

    Args:
        url: names the server, and what libpq shall do, such as `?sslmode=verify-full`; a password
            that it lacks is libpq's to find, in `PGPASSWORD` or `PGPASSFILE`.
        writes: durable writers of a database take turns from the first statement of a transaction.
        is_durable: a commit waits for the disk. What need not, writes rows of its own alone, and
            takes no turn.
        wait_ms: how long a statement waits for somebody else's transaction.
    """
    takes_turns = writes and is_durable
    engine = create_engine(
        url,
        # After the lock, each statement sees what those before it committed; a snapshot taken
        # while waiting for the lock would not. Rows of one's own need no more.
        isolation_level="READ COMMITTED" if writes else "REPEATABLE READ",
        pool_pre_ping=True,
        pool_size=POOL_SIZE,
        max_overflow=POOL_OVERFLOW,
        pool_timeout=POOL_WAIT_S,
        pool_recycle=RECYCLE_S,
        connect_args=_arguments(url, is_durable=is_durable, wait_ms=wait_ms),
    )
    event.listen(engine, "connect", _close_with_its_pool)
    if takes_turns:

        def take_turn(connection: Connection) -> None:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITE_LOCK})")

        event.listen(engine, "begin", take_turn)
    return engine


def _close_with_its_pool(connection: Any, entry: ConnectionPoolEntry) -> None:
    """Let a connection end when nobody holds its engine, and so its entry, any more.

    In the process that made it: a child's copy is the parent's, who still speaks through it.
    """
    kept: dict[Any, Any] = entry.record_info if entry.record_info is not None else entry.info
    earlier = kept.pop("guard", None)
    if earlier is not None:
        earlier.detach()
    kept["guard"] = guard = weakref.finalize(entry, _close, connection, os.getpid())
    guard.atexit = False


def _close(connection: Any, process_id: int) -> None:
    if os.getpid() == process_id:
        connection.close()


def _arguments(url: URL, *, is_durable: bool, wait_ms: int) -> dict[str, object]:
    """What libpq is told, except where the URL says it itself."""
    server = {
        "lock_timeout": wait_ms,
        # Whoever stops in the middle of a transaction keeps the others waiting no longer.
        "idle_in_transaction_session_timeout": 60_000,
        "synchronous_commit": "on" if is_durable else "off",
    }
    wanted: dict[str, object] = {
        "application_name": "flywheel",
        "connect_timeout": CONNECT_TIMEOUT_S,
        "keepalives_idle": 5,
        "keepalives_interval": 2,
        "keepalives_count": 3,
        "tcp_user_timeout": _SILENCE_MS,
        "options": " ".join(f"-c {name}={value}" for name, value in server.items()),
    }
    return {name: value for name, value in wanted.items() if name not in url.query}
