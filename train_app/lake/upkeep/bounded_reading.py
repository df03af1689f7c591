"""DuckDB beside a process that has other work: little memory, few threads."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing, contextmanager

import duckdb

MEMORY_LIMIT = "512MB"
N_THREADS = 2


@contextmanager
def bounded_connection() -> Generator[duckdb.DuckDBPyConnection]:
    """An empty database that never takes much, closed in the end."""
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "threads": N_THREADS,
    }
    with closing(duckdb.connect(config=config)) as connection:
        yield connection
