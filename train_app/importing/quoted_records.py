"""Splits delimited text record by record where a record may span lines or a line may be broken.

A broken record costs its first line only: the lines after it are read again on their own.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from train_app.importing.raw_batch import BadRow, Block, Dialect

_SEPARATOR = "\x1f"


@dataclass
class FoundRecords:
    """What came of a block; every record starts with its line number."""

    records: list[tuple[object, ...]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    bytes_read: int = 0
    texts: dict[int, str] = field(default_factory=dict)

    def text(self, line: int) -> str:
        """The first line of a record."""
        return self.texts[line]


def read_records(
    block: Block,
    following: Iterator[Block],
    dialect: Dialect,
    n_columns: int,
    indices: Sequence[int],
) -> FoundRecords:
    """The records of a block; blocks that a record of its end runs into are read as well."""
    found = FoundRecords()
    feed = _LineFeed(block, following, dialect, found)
    reader = _new_reader(feed, dialect)
    while True:
        try:
            record = next(reader)
        except StopIteration:
            return found
        except csv.Error as error:
            record, broken = [], str(error)
        else:
            broken = "has a quote that is never closed" if feed.ended_inside else ""
        if not broken and len(record) != n_columns:
            broken = f"has {len(record)} columns, expected {n_columns}"
        if not broken:
            line, text = feed.accept()
            found.texts[line] = text
            found.records.append((line, *(record[index] for index in indices)))
            continue
        line, text = feed.reject()
        reader = _new_reader(feed, dialect)
        if text.strip():
            found.bad.append(BadRow(line, broken, text))


def _new_reader(feed: _LineFeed, dialect: Dialect) -> Iterator[list[str]]:
    return csv.reader(
        feed,
        delimiter=_SEPARATOR if len(dialect.delimiter) > 1 else dialect.delimiter,
        quoting=csv.QUOTE_MINIMAL if dialect.quoting else csv.QUOTE_NONE,
        quotechar='"' if dialect.quoting else None,
    )


class _LineFeed:
    """Hands lines to the parser and remembers which of them the present record has used."""

    def __init__(
        self,
        block: Block,
        following: Iterator[Block],
        dialect: Dialect,
        found: FoundRecords,
    ) -> None:
        self._following = following
        self._delimiter = dialect.delimiter
        self._found = found
        self._waiting: deque[tuple[int, str]] = deque()
        self._used: list[tuple[int, str]] = []
        self.ended_inside = False
        self._take(block)

    def __iter__(self) -> _LineFeed:
        return self

    def __next__(self) -> str:
        while not self._waiting:
            # Only a record that is still open may go on into the next block.
            block = next(self._following, None) if self._used else None
            if block is None:
                self.ended_inside = bool(self._used)
                raise StopIteration
            self._take(block)
        self._used.append(self._waiting.popleft())
        text = self._used[-1][1]
        if len(self._delimiter) > 1:
            text = text.replace(self._delimiter, _SEPARATOR)
        return text + "\n"

    def accept(self) -> tuple[int, str]:
        """The record is whole: its first line."""
        first = self._used[0]
        self._used.clear()
        return first

    def reject(self) -> tuple[int, str]:
        """The record is broken: its first line; the others are handed out again."""
        first, *rest = self._used
        self._waiting.extendleft(reversed(rest))
        self._used.clear()
        self.ended_inside = False
        return first

    def _take(self, block: Block) -> None:
        self._found.bytes_read = block.bytes_read
        for number, line in enumerate(block.lines, start=block.first_line):
            try:
                self._waiting.append((number, line.decode("utf-8").removesuffix("\r")))
            except UnicodeDecodeError:
                raw = line.decode("utf-8", "backslashreplace")
                reason = "is not UTF-8 text (convert the file: iconv -f latin1 -t utf-8)"
                self._found.bad.append(BadRow(number, reason, raw))
