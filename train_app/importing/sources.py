"""Finds out what an import reads: files, format, delimiter, columns. Reads no rows itself."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recsys.errors import ConfigError, DataError
from train_app.importing.column_mapping import (
    ENGAGEMENT_FIELDS,
    ITEM_FIELDS,
    USER_FIELDS,
    check_mapping,
    map_columns,
)
from train_app.importing.delimited import first_lines, read_delimited
from train_app.importing.movielens import KnownFile, find_movielens
from train_app.importing.parquet_rows import parquet_columns, read_parquet
from train_app.importing.raw_batch import Dialect, RawBatch, TableFile

FORMATS = ("auto", "movielens", "csv", "parquet")
MIN_EVEN_SHARE = 0.5
DEFAULT_KIND = "view"
RATING_KIND = "rating"
_PARQUET_SUFFIXES = (".parquet", ".pq")
_TEXT_SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data", ".csv.gz", ".tsv.gz", ".txt.gz")
_DELIMITERS = ("::", "\t", ",", ";", "|", " ")


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """What `import` was asked to do; see `interfaces.md` section 2.

    Args:
        format: one of `FORMATS`.
        mapping: fields (user_id, item_id, timestamp, kind, value), each with its column.
        delimiter: None finds it out.
        header: false where the first line is data; columns are then named 1, 2, ...
        kind: kind of engagements without a kind column; None is `view`, `rating` for MovieLens.
    """

    source: Path
    items: Path | None = None
    users: Path | None = None
    format: str = "auto"
    mapping: Mapping[str, str] = field(default_factory=dict)
    delimiter: str | None = None
    header: bool = True
    kind: str | None = None
    dry_run: bool = False


@dataclass(frozen=True, slots=True)
class MappedFiles:
    """Files of the same columns, and which column is which field."""

    files: tuple[TableFile, ...]
    mapping: Mapping[str, str]
    flags: tuple[str, ...] = ()
    """Columns of 0 and 1 whose names are categories."""

    @property
    def size_bytes(self) -> int:
        """Size of all files, as they are stored."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class ImportSource:
    """Everything an import reads."""

    format: str
    engagements: MappedFiles
    kind: str
    items: MappedFiles | None
    users: MappedFiles | None


def find_source(options: ImportOptions) -> ImportSource:
    """What the options name.

    Raises:
        ConfigError: an option has no such value.
        DataError: nothing there that can be imported; says what was found.
    """
    check_mapping(options.mapping)
    if options.format not in FORMATS:
        raise ConfigError(f"--format is {options.format}, expected one of {', '.join(FORMATS)}")
    if not options.source.exists():
        raise DataError(f"{options.source} does not exist, expected a file or a folder to import")
    items = _catalogue(options.items, ITEM_FIELDS, ("item_id",))
    users = _catalogue(options.users, USER_FIELDS, ("user_id",))
    if options.format in {"auto", "movielens"} and options.source.is_dir():
        known = find_movielens(options.source)
        if known is not None:
            ratings = _known(known.engagements, ENGAGEMENT_FIELDS, ("user_id", "item_id"))
            items = items or (
                _known(known.items, ITEM_FIELDS, ("item_id",)) if known.items else None
            )
            users = users or (
                _known(known.users, USER_FIELDS, ("user_id",)) if known.users else None
            )
            return ImportSource("movielens", ratings, options.kind or RATING_KIND, items, users)
    if options.format == "movielens":
        raise DataError(
            f"{options.source} is no MovieLens folder, expected ratings.dat, u.data or ratings.csv"
            " in it"
        )
    tables = _tables(options)
    mapping = map_columns(
        tables[0].columns,
        ENGAGEMENT_FIELDS,
        ("user_id", "item_id"),
        options.mapping,
        str(tables[0].path),
    )
    name = "csv" if tables[0].dialect else "parquet"
    kind = options.kind or DEFAULT_KIND
    return ImportSource(name, MappedFiles(tables, mapping), kind, items, users)


def read_rows(file: TableFile, wanted: Mapping[str, str]) -> Iterator[RawBatch]:
    """The rows of one file, in batches of bounded memory; `wanted` maps names to columns.

    Raises:
        DataError: the file is damaged.
    """
    return read_delimited(file, wanted) if file.dialect else read_parquet(file, wanted)


def find_delimiter(lines: Sequence[str]) -> str | None:
    """The delimiter that most lines have as often as the first one; None where half have not."""
    best: tuple[float, str] | None = None
    for delimiter in _DELIMITERS:
        counts = [line.count(delimiter) for line in lines]
        share = counts.count(counts[0]) / len(counts) if counts[0] else 0.0
        if share >= MIN_EVEN_SHARE and (best is None or share > best[0]):
            best = (share, delimiter)
    return best[1] if best else None


def _tables(options: ImportOptions) -> tuple[TableFile, ...]:
    paths = _files(options.source, options.format)
    as_parquet = options.format == "parquet" or (options.format == "auto" and _is_parquet(paths[0]))
    tables = tuple(
        _parquet_table(path) if as_parquet else _text_table(path, options.delimiter, options.header)
        for path in paths
    )
    for table in tables:
        if set(table.columns) != set(tables[0].columns):
            raise DataError(
                f"{table.path} has the columns {', '.join(table.columns)}, {tables[0].path} has"
                f" {', '.join(tables[0].columns)}; import them one by one"
            )
    return tables


def _files(source: Path, wanted: str) -> list[Path]:
    if source.is_file():
        return [source]
    found = sorted(
        path
        for path in source.rglob("*")
        if path.is_file() and not path.name.startswith((".", "_"))
    )
    for name, suffixes in (("parquet", _PARQUET_SUFFIXES), ("csv", _TEXT_SUFFIXES)):
        matches = [path for path in found if path.name.lower().endswith(suffixes)]
        if matches and wanted in {"auto", name}:
            return matches
    raise DataError(
        f"no file to import in {source}; expected a MovieLens folder, or files that end in"
        f" {', '.join((*_PARQUET_SUFFIXES, *_TEXT_SUFFIXES))}"
    )


def _is_parquet(path: Path) -> bool:
    if path.suffix.lower() in _PARQUET_SUFFIXES:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"PAR1"
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _parquet_table(path: Path) -> TableFile:
    if not path.stat().st_size:
        raise DataError(f"{path} is empty, expected a Parquet file")
    return TableFile(path, parquet_columns(path), None, path.stat().st_size)


def _text_table(
    path: Path, delimiter: str | None, has_header: bool, min_columns: int = 2
) -> TableFile:
    lines = first_lines(path, "utf-8")[:20]
    if delimiter is None:
        delimiter = find_delimiter(lines) or ("," if min_columns == 1 else None)
    elif "\\" in delimiter:
        delimiter = delimiter.encode().decode("unicode_escape")
    if not delimiter:
        raise DataError(
            f"no delimiter splits the first lines of {path} evenly; name it with --delimiter"
        )
    file = _text_file(path, Dialect(delimiter, has_header), lines[0])
    if len(file.columns) < min_columns:
        raise DataError(
            f"the first line of {path} has one column only when split at {delimiter!r}, expected a"
            " user and an item at least; name the right one with --delimiter"
        )
    return file


def _text_file(
    path: Path, dialect: Dialect, first_line: str, names: tuple[str, ...] = ()
) -> TableFile:
    cells = _split(first_line, dialect)
    numbered = tuple(str(index + 1) for index in range(len(cells)))
    columns = tuple(cells) if dialect.has_header else (*names, *numbered[len(names) :])
    return TableFile(path, columns[: len(cells)], dialect, path.stat().st_size)


def _split(line: str, dialect: Dialect) -> list[str]:
    if not dialect.quoting:
        return line.split(dialect.delimiter)
    line = line.replace(dialect.delimiter, "\x1f")
    return [cell.strip() for cell in next(csv.reader([line], delimiter="\x1f"))]


def _known(
    known: KnownFile, fields: Mapping[str, tuple[str, ...]], required: Sequence[str]
) -> MappedFiles:
    lines = first_lines(known.path, known.dialect.encoding)
    file = _text_file(known.path, known.dialect, lines[0], known.columns)
    mapping = map_columns(file.columns, fields, required, {}, str(known.path))
    flags = tuple(name for name in known.flags if name in file.columns)
    return MappedFiles((file,), mapping, flags)


def _catalogue(
    path: Path | None,
    fields: Mapping[str, tuple[str, ...]],
    required: Sequence[str],
) -> MappedFiles | None:
    """A file of items or users; `movies.dat` and its like are known by their names."""
    if path is None:
        return None
    if not path.is_file():
        raise DataError(f"{path} does not exist, expected a CSV or Parquet file")
    known = find_movielens(path.parent)
    for candidate in (known.items, known.users) if known else ():
        if candidate is not None and candidate.path == path:
            return _known(candidate, fields, required)
    table = _parquet_table(path) if _is_parquet(path) else _text_table(path, None, True, 1)
    return MappedFiles((table,), map_columns(table.columns, fields, required, {}, str(path)))
