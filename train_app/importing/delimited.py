"""Reads CSV and other delimited text in blocks of bounded memory, with exact line numbers.

Blocks whose records are one line each take Arrow's parser; a block with a quoted line break, an
odd quote or bytes that are not UTF-8 goes record by record (`quoted_records`).
"""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Generator, Iterator, Mapping
from pathlib import Path
from typing import IO, cast

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from recsys.errors import DataError
from train_app.importing.quoted_records import read_records
from train_app.importing.raw_batch import LINE, BadRow, Block, Dialect, RawBatch, TableFile

BLOCK_BYTES = 4 << 20
MAX_LINE_BYTES = 16 << 20
_BOM = b"\xef\xbb\xbf"
_SEPARATOR = "\x1f"
"""Stands for a delimiter of several characters while a block is parsed."""


def read_delimited(file: TableFile, wanted: Mapping[str, str]) -> Iterator[RawBatch]:
    """The rows of a text file.

    Args:
        wanted: names to answer under, each with the column of the file that it is.

    Raises:
        DataError: the file cannot be read as text.
    """
    assert file.dialect is not None
    indices = {name: file.columns.index(column) for name, column in wanted.items()}
    with open_text(file.path) as stream:
        blocks = _blocks(stream, file.path, file.dialect)
        for block in blocks:
            yield read_block(block, blocks, file.dialect, len(file.columns), indices)


@contextlib.contextmanager
def open_text(path: Path) -> Generator[IO[bytes]]:
    """The file's bytes, unpacked where its name ends in `.gz`.

    Raises:
        DataError: it cannot be opened, or is damaged.
    """
    try:
        with path.open("rb") as raw:
            yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path} is damaged or cut short ({error}); copy it again from its source"
        ) from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error


def first_lines(path: Path, encoding: str, n_bytes: int = 1 << 16) -> list[str]:
    """The first whole lines of a text file, for finding out how it is written.

    Raises:
        DataError: empty, or no text in UTF-8 or an encoding like it.
    """
    with open_text(path) as stream:
        head = stream.read(n_bytes)
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{path} is UTF-16 text, expected UTF-8; convert it: iconv -f utf-16 -t utf-8"
        )
    if b"\x00" in head:
        raise DataError(
            f"{path} is no text file (it has NUL bytes), expected CSV, or name --format"
        )
    if not head.strip():
        raise DataError(f"{path} is empty, expected rows of user, item and time")
    whole = head.removeprefix(_BOM).split(b"\n")
    if len(head) == n_bytes and len(whole) > 1:
        whole = whole[:-1]
    lines = (line.decode(encoding, "backslashreplace").rstrip("\r") for line in whole)
    return [line for line in lines if line]


def read_block(
    block: Block,
    following: Iterator[Block],
    dialect: Dialect,
    n_columns: int,
    indices: Mapping[str, int],
) -> RawBatch:
    """The rows of a block.

    Args:
        following: the blocks after it, of which some are used up where a record runs into them.
        indices: names to answer under, each with the 0-based column.
    """
    batch = _parse_whole(block, dialect, n_columns, indices)
    if batch is None:
        batch = _parse_records(block, following, dialect, n_columns, indices)
    return batch


def _parse_whole(
    block: Block, dialect: Dialect, n_columns: int, indices: Mapping[str, int]
) -> RawBatch | None:
    """The rows of a block in which every record is one line of UTF-8; None of any other."""
    data = block.data
    if (dialect.quoting and data.count(b'"') % 2) or not _is_utf8(data):
        return None
    if len(dialect.delimiter) > 1:
        data = data.replace(dialect.delimiter.encode(), _SEPARATOR.encode())
    invalid: list[tuple[int, BadRow]] = []

    def skip(row: pa_csv.InvalidRow) -> str:
        line = block.first_line + row.number - 1
        reason = f"has {row.actual_columns} columns, expected {n_columns}"
        text = row.text.replace(_SEPARATOR, dialect.delimiter)
        invalid.append((row.number - 1, BadRow(line, reason, text)))
        return "skip"

    names = [str(index) for index in range(n_columns)]
    needed = sorted({str(index) for index in indices.values()})
    parsing = pa_csv.ParseOptions(
        delimiter=_SEPARATOR if len(dialect.delimiter) > 1 else dialect.delimiter,
        quote_char='"' if dialect.quoting else False,
        newlines_in_values=dialect.quoting,
        ignore_empty_lines=False,
        invalid_row_handler=skip,
    )
    as_text = dict.fromkeys(needed, pa.string())
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            pa_csv.ReadOptions(use_threads=False, column_names=names, block_size=len(data) + 1),
            parsing,
            pa_csv.ConvertOptions(check_utf8=False, include_columns=needed, column_types=as_text),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows + len(invalid) != len(block.lines):
        return None
    lines = np.arange(block.first_line, block.first_line + len(block.lines))
    lines = np.delete(lines, [number for number, _ in invalid])
    rows = pa.table(
        {
            **{name: table[str(index)] for name, index in indices.items()},
            LINE: lines,
        }
    )
    bad = [row for _, row in invalid]
    return RawBatch(rows, block.text, block.bytes_read, bad)


def _parse_records(
    block: Block,
    following: Iterator[Block],
    dialect: Dialect,
    n_columns: int,
    indices: Mapping[str, int],
) -> RawBatch:
    """The rows of a block, and of those after it that a record of its end runs into."""
    found = read_records(block, following, dialect, n_columns, list(indices.values()))
    columns = zip(*found.records, strict=True) if found.records else [()] * (len(indices) + 1)
    lines, *texts = (list(column) for column in columns)
    rows = pa.table(
        {
            **{
                name: pa.array(text, pa.string()) for name, text in zip(indices, texts, strict=True)
            },
            LINE: pa.array(lines, pa.int64()),
        }
    )
    return RawBatch(rows, found.text, found.bytes_read, found.bad)


def _blocks(stream: IO[bytes], path: Path, dialect: Dialect) -> Iterator[Block]:
    """The file in blocks of whole lines, without its byte order mark and header."""
    raw = getattr(stream, "fileobj", stream)
    line, rest, skip = 1, stream.read(len(_BOM)).removeprefix(_BOM), dialect.has_header
    while chunk := stream.read(BLOCK_BYTES):
        data = rest + chunk
        cut = data.rfind(b"\n") + 1
        data, rest = data[:cut], data[cut:]
        if len(rest) > MAX_LINE_BYTES:
            raise DataError(f"{path} has no line end for {len(rest)} bytes; is it a text file?")
        if skip and data:
            data, line, skip = data[data.index(b"\n") + 1 :], 2, False
        if data:
            block = Block(line, _to_utf8(data, dialect), int(raw.tell()))
            line += len(block.lines)
            yield block
    if rest and not skip:
        yield Block(line, _to_utf8(rest, dialect), int(raw.tell()))


def _to_utf8(data: bytes, dialect: Dialect) -> bytes:
    if dialect.encoding == "utf-8" or _is_utf8(data):
        return data
    return data.decode(dialect.encoding).encode()


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True
