"""What a reader of any file format hands on: columns of text with their line numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import pyarrow as pa

LINE = "line"
"""Name of the column of 1-based line numbers (rows, in a Parquet file)."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a delimited text file is written; `delimiter` may have several characters."""

    delimiter: str
    has_header: bool = True
    quoting: bool = True
    encoding: Literal["utf-8", "latin-1"] = "utf-8"


@dataclass(frozen=True, slots=True)
class TableFile:
    """One file to read: its column names, and its dialect where it is text (else Parquet)."""

    path: Path
    columns: tuple[str, ...]
    dialect: Dialect | None
    size_bytes: int


class Block:
    """Whole lines of a file; the line numbers are 1-based."""

    def __init__(self, first_line: int, data: bytes, bytes_read: int) -> None:
        self.first_line = first_line
        self.data = data
        self.bytes_read = bytes_read

    @cached_property
    def lines(self) -> list[bytes]:
        """The lines, without their ends."""
        lines = self.data.split(b"\n")
        return lines if lines[-1] else lines[:-1]

    def text(self, line: int) -> str:
        """The text of one line."""
        return self.lines[line - self.first_line].decode("utf-8", "backslashreplace").rstrip("\r")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be taken: where it stands, why, its text, and whose it is if known."""

    line: int
    reason: str
    raw: str
    user_id: str | None = None


@dataclass(frozen=True, slots=True)
class RawBatch:
    """Some rows of a file, in file order.

    Args:
        rows: the wanted columns as text under the names asked for, and `LINE`.
        bad: rows that could not even be split into columns.
        raw: the text of a row of `rows`, by its line.
        bytes_read: how far into the file this batch ends.
    """

    rows: pa.Table
    raw: Callable[[int], str]
    bytes_read: int
    bad: list[BadRow] = field(default_factory=list)
