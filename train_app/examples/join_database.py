"""DuckDB for the joins that make examples: bounded memory, spilling beside its own file."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator
from pathlib import Path

import duckdb

from recsys.learning_settings import TrainSettings


@contextlib.contextmanager
def open_joins(folder: Path, train: TrainSettings) -> Generator[duckdb.DuckDBPyConnection]:
    """A database in `folder` that keeps `train.memory_mb` in memory and the rest on its disk."""
    n_threads = train.n_threads or os.cpu_count() or 1
    connection = duckdb.connect(
        str(folder / "joins.duckdb"),
        config={
            "memory_limit": f"{train.memory_mb}MB",
            "temp_directory": str(folder / "spill"),
            "threads": str(n_threads),
            "TimeZone": "UTC",
            "preserve_insertion_order": "false",
            "autoinstall_known_extensions": "false",
        },
    )
    try:
        connection.execute("SET enable_progress_bar = false")
        yield connection
    finally:
        connection.close()


def sql_text(text: str | Path) -> str:
    """A text as an SQL literal."""
    return "'" + str(text).replace("'", "''") + "'"


def sql_texts(texts: tuple[str, ...]) -> str:
    """Texts as an SQL list that may be empty."""
    return "[" + ", ".join(sql_text(text) for text in texts) + "]::VARCHAR[]"
