"""What an import reads: formats, delimiters, columns and lines."""

from __future__ import annotations

import csv
import gzip
import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from train_app.importing import delimited
from train_app.importing.raw_batch import Block, Dialect
from train_app.importing.sources import ImportOptions, find_delimiter, find_source, read_rows

NOW_MS = 1_800_000_000_000


def a_file(folder: Path, name: str, content: str | bytes) -> Path:
    """A file with this content."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def rows_of(options: ImportOptions) -> list[dict[str, Any]]:
    """All rows a source has, as the import sees them."""
    files = find_source(options).engagements
    return [
        row
        for file in files.files
        for batch in read_rows(file, files.mapping)
        for row in batch.rows.to_pylist()
    ]


@pytest.mark.parametrize(
    ("lines", "delimiter"),
    [
        (["user,item,ts", "a b,1,2024-01-01 00:00:00"], ","),
        (["1::2::3", "4::5::6"], "::"),
        (["1\t2\t3", "4\t5\t6"], "\t"),
        (["1 2", "3 4"], " "),
        (["a;b", "1,5;2", "3;4"], ";"),
        (["one", "two"], None),
    ],
)
def test_the_delimiter_is_the_one_that_splits_lines_evenly(
    lines: list[str], delimiter: str | None
) -> None:
    """Also where another candidate appears inside the values."""
    assert find_delimiter(lines) == delimiter


def test_columns_are_found_by_their_usual_names(tmp_path: Path) -> None:
    """A header in another spelling needs no mapping; a given mapping goes first."""
    path = a_file(tmp_path, "x.csv", "Visitor ID,product_id,Event Time,Event,price\nu,p,1,buy,9\n")
    source = find_source(ImportOptions(path))
    assert source.engagements.mapping == {
        "user_id": "Visitor ID", "item_id": "product_id", "timestamp": "Event Time",
        "kind": "Event",
    }  # fmt: skip
    mapped = find_source(ImportOptions(path, mapping={"value": "price", "item_id": "Event"}))
    assert mapped.engagements.mapping["item_id"] == "Event"
    assert mapped.engagements.mapping["value"] == "price"


def test_columns_that_cannot_be_found_are_an_error_that_lists_what_is_there(
    tmp_path: Path,
) -> None:
    """The message names the columns, the missing field, and --no-header where it looks needed."""
    path = a_file(tmp_path, "x.csv", "1,7,3\n2,8,4\n")
    with pytest.raises(DataError, match=r"user_id or item_id.*found: 1, 7, 3.*--no-header"):
        find_source(ImportOptions(path))
    with pytest.raises(DataError, match=r"'nope'.*columns found: 1, 7, 3"):
        find_source(ImportOptions(path, mapping={"user_id": "nope"}))
    with pytest.raises(ConfigError, match=r"colour.*user_id"):
        find_source(ImportOptions(path, mapping={"colour": "1"}))


def test_without_a_header_columns_are_numbered(tmp_path: Path) -> None:
    """The first line is data, and a delimiter may have several characters."""
    path = a_file(tmp_path, "x.txt", "u::9::a\r\nv::8::b\r\n")
    options = ImportOptions(path, header=False, mapping={"user_id": "1", "item_id": "3"})
    assert rows_of(options) == [
        {"user_id": "u", "item_id": "a", "line": 1},
        {"user_id": "v", "item_id": "b", "line": 2},
    ]


def test_movielens_folders_are_known_by_their_files(tmp_path: Path) -> None:
    """The three layouts, with items, genres as flags and names in latin-1."""
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    for folder in (one, two, three):
        folder.mkdir()
    a_file(one, "ratings.dat", "1::10::5::978300760\n")
    a_file(one, "movies.dat", "10::Misérables, Les (1995)::Drama|War\n".encode("latin-1"))
    a_file(two, "u.data", "1\t10\t5\t978300760\n")
    a_file(two, "u.genre", "unknown|0\nDrama|1\n\n")
    a_file(two, "u.item", "10|Up|01-Jan-1995||http://x|0|1\n")
    a_file(three, "ratings.csv", "userId,movieId,rating,timestamp\n1,10,5,978300760\n")
    expected = {
        "user_id": "1", "item_id": "10", "timestamp": "978300760", "value": "5",
    }  # fmt: skip
    for folder in (one, two, three):
        source = find_source(ImportOptions(folder))
        assert (source.format, source.kind) == ("movielens", "rating")
        row = rows_of(ImportOptions(folder))[0]
        assert {name: row[name] for name in expected} == expected
    items = find_source(ImportOptions(one)).items
    assert items is not None
    title = next(read_rows(items.files[0], items.mapping)).rows["title"][0].as_py()
    assert title == "Misérables, Les (1995)"
    flagged = find_source(ImportOptions(two)).items
    assert flagged is not None
    assert flagged.flags == ("unknown", "Drama")


def test_a_list_of_items_may_have_one_column_and_its_own_delimiter(tmp_path: Path) -> None:
    """The delimiter given is that of the engagements."""
    path = a_file(tmp_path, "x.txt", "user::item\nu::a\n")
    for content, columns in (("sku\na\n", ("sku",)), ("id;name\na;A\n", ("id", "name"))):
        options = ImportOptions(path, items=a_file(tmp_path, "i.csv", content), delimiter="::")
        items = find_source(options).items
        assert items is not None
        assert items.files[0].columns == columns
        (batch,) = read_rows(items.files[0], items.mapping)
        assert batch.rows["item_id"].to_pylist() == ["a"]


def test_a_folder_of_parquet_is_read_file_by_file_with_any_column_types(tmp_path: Path) -> None:
    """Numbers, times, dictionaries and nulls come out as text."""
    for name, user in (("a.parquet", 1), ("b.parquet", 2)):
        table = pa.table(
            {
                "uid": [user, None],
                "sku": pa.array(["x", "y"]).dictionary_encode(),
                "at": pa.array(
                    [datetime(2024, 1, 2, 3, tzinfo=UTC)] * 2, pa.timestamp("us", "UTC")
                ),
                "score": [0.5, 1.0],
            }
        )
        pq.write_table(table, tmp_path / name)
    rows = rows_of(ImportOptions(tmp_path))
    assert [row["user_id"] for row in rows] == ["1", None, "2", None]
    assert rows[0]["timestamp"] == "2024-01-02 03:00:00.000000"
    assert [(row["item_id"], row["value"], row["line"]) for row in rows[2:]] == [
        ("x", "0.5", 1),
        ("y", "1", 2),
    ]


def test_files_that_cannot_be_read_are_named_with_the_mend(tmp_path: Path) -> None:
    """Empty, binary, UTF-16, cut short, and not there."""
    whole = a_file(tmp_path, "whole.csv", "user,item\n" + "u,i\n" * 1000)
    pq.write_table(pa.table({"user": ["u"] * 999, "item": ["i"] * 999}), tmp_path / "x.parquet")
    packed = gzip.compress(whole.read_bytes())
    parquet = (tmp_path / "x.parquet").read_bytes()
    cases = {
        "empty.csv": (b"", "is empty"),
        "empty.parquet": (b"", "is empty"),
        "binary.csv": (b"user\x00,item\n", "NUL"),
        "wide.csv": ("user,item\n".encode("utf-16"), "iconv"),
        "cut.csv.gz": (packed[: len(packed) // 2], "cut short"),
        "cut.parquet": (parquet[: len(parquet) // 2], "no whole Parquet"),
        "single.csv": (b"user\nu\n", "--delimiter"),
    }
    for name, (content, message) in cases.items():
        path = a_file(tmp_path, name, content)
        with pytest.raises(DataError, match=message) as caught:
            rows_of(ImportOptions(path))
        assert name in str(caught.value)
    with pytest.raises(DataError, match="does not exist"):
        find_source(ImportOptions(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="--format"):
        find_source(ImportOptions(whole, format="xml"))


def test_bad_lines_cost_themselves_only_and_keep_their_numbers(tmp_path: Path) -> None:
    """Wrong column counts, bytes that are no text, and a quote that is never closed."""
    path = a_file(
        tmp_path,
        "x.csv",
        b'\xef\xbb\xbfuser,item\nu1,\xff\nu2,b\n"q\nx",c\nu3\n\nu4,"open\nu5,e\n',
    )
    files = find_source(ImportOptions(path)).engagements
    (batch,) = read_rows(files.files[0], files.mapping)
    assert batch.rows.to_pylist() == [
        {"user_id": "u2", "item_id": "b", "line": 3},
        {"user_id": "q\nx", "item_id": "c", "line": 4},
        {"user_id": "u5", "item_id": "e", "line": 9},
    ]
    assert sorted((row.line, row.reason.split("(")[0].strip()) for row in batch.bad) == [
        (2, "is not UTF-8 text"),
        (6, "has 1 columns, expected 2"),
        (8, "has a quote that is never closed"),
    ]


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00\x1f"), max_size=6)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=20),
    st.sampled_from([",", "\t", ";", "|"]),
    st.integers(1, 60),
)
def test_what_a_csv_writer_writes_is_read_back_with_its_lines(
    rows: list[tuple[str, str, str]], delimiter: str, block_bytes: int
) -> None:
    """Quotes, delimiters and line breaks in values survive, wherever the blocks are cut."""
    out = io.StringIO()
    writer = csv.writer(out, delimiter=delimiter, lineterminator="\n")
    lines = []
    for row in rows:
        lines.append(1 + out.getvalue().count("\n"))
        writer.writerow(row)
    data = out.getvalue().encode()
    dialect = Dialect(delimiter, has_header=False)
    found = []
    blocks = iter(_cut(data, block_bytes))
    for block in blocks:
        batch = delimited.read_block(block, blocks, dialect, 3, {"a": 0, "b": 1, "c": 2})
        assert batch.bad == []
        found += batch.rows.to_pylist()
    assert [row["line"] for row in found] == lines
    assert [(row["a"], row["b"], row["c"]) for row in found] == rows


def _cut(data: bytes, size: int) -> list[Block]:
    blocks, start, line = [], 0, 1
    while start < len(data):
        end = data.find(b"\n", start + size) + 1 or len(data)
        blocks.append(Block(line, data[start:end], end))
        line += data[start:end].count(b"\n")
        start = end
    return blocks
