"""What goes wrong with the lake, as errors that name the table and the mend."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Generator

import duckdb
import pyarrow as pa
from deltalake.exceptions import DeltaError

from recsys.errors import StoreError

_DAMAGE = (
    "magic bytes",
    "corrupt",
    "invalid parquet",
    "thrift",
    "no such file",
    "no files found",
    "not found",
    "found gap",
    "json",
    "too small to be",
)
_FULL = ("space left", "quota", "file too large")
_MAX_CHARS = 400
"""Of a library's message; Delta's can be pages long."""


class MarkMoved(StoreError):
    """Another writer filled the table further first; read its marks and go on from there."""


@contextlib.contextmanager
def lake_errors(verb: str, location: str) -> Generator[None]:
    """Report what goes wrong with disk, Arrow, DuckDB or Delta as one StoreError with its mend."""
    try:
        yield
    except (OSError, DeltaError, pa.ArrowException, duckdb.Error) as error:
        # DuckDB adds the query, which nobody wrote who reads this.
        what = " ".join(str(error).partition("\nLINE ")[0].split())[:_MAX_CHARS]
        raise StoreError(
            f"could not {verb} lake table {location}: {what}; nothing of it was committed;"
            f" {_mend(error)}"
        ) from error


def _mend(error: BaseException) -> str:
    text = str(error).lower()
    number = getattr(error, "errno", None)
    if number in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} or any(word in text for word in _FULL):
        return "free space, then run it again"
    if any(word in text for word in _DAMAGE):
        return (
            "a file of the table is damaged or missing: restore it from a backup, or move the"
            " table's folder away, run 'python -m train_app ingest', which brings back what the log"
            " still holds, and import again what came from files"
        )
    return "look at the message, then run it again"
