"""The item table: what was written is what is read, and what follows from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.item_table import (
    ITEMS_FILE,
    MS_PER_DAY,
    ItemTable,
    read_item_codes,
    write_item_table,
)
from recsys.errors import BundleCorrupt
from recsys.types import Item

ITEMS = [
    Item("a", "Alpha", ("drama", "war"), "ann", created_ms=10 * MS_PER_DAY),
    Item("b", "Béta", ("war",), "bob", created_ms=1 * MS_PER_DAY),
    Item("c", "", (), "", created_ms=None),
    Item("d", "Delta", ("drama",), "bob", created_ms=9 * MS_PER_DAY),
    Item("e", "Gone", ("drama",), "ann", created_ms=11 * MS_PER_DAY, available=False),
]


def a_table(directory: Path) -> ItemTable:
    """The table of `ITEMS` after a trip to disk."""
    write_item_table(directory, ITEMS, np.asarray([1, 7, 3, 3, 99], np.float32))
    return ItemTable.read(directory)


def test_rows_ids_and_titles_survive_the_file(tmp_path: Path) -> None:
    """The order of the items is the order of the rows."""
    table = a_table(tmp_path)
    assert table.item_ids == ["a", "b", "c", "d", "e"]
    assert [table.row_of[item.item_id] for item in ITEMS] == list(range(5))
    assert table.titles[1] == "Béta"
    assert table.available.tolist() == [True, True, True, True, False]
    assert table.created_ms[2] == -1
    assert table.nbytes > 0


def test_popular_rows_fall_by_popularity_and_leave_out_what_is_unavailable(tmp_path: Path) -> None:
    """Ties keep their row order."""
    assert a_table(tmp_path).popular_rows.tolist() == [1, 2, 3, 0]


def test_fresh_rows_are_the_newest_days_counted_from_the_newest_available_item(
    tmp_path: Path,
) -> None:
    """An item without a date is never fresh."""
    table = a_table(tmp_path)
    assert table.fresh_rows(2.0).tolist() == [0, 3]
    assert table.fresh_rows(100.0).tolist() == [0, 3, 1]


def test_codes_tell_first_categories_and_creators_apart_and_minus_one_is_none(
    tmp_path: Path,
) -> None:
    """What the caps of ordering count."""
    codes = a_table(tmp_path).codes
    assert codes.categories.tolist() == [0, 1, -1, 0, 0]
    assert codes.creators.tolist() == [0, 1, -1, 1, 0]
    alone = read_item_codes(tmp_path)
    assert np.array_equal(alone.categories, codes.categories)
    assert np.array_equal(alone.creators, codes.creators)


def test_unknown_ids_have_no_row(tmp_path: Path) -> None:
    """Rows of a mix of known and unknown ids."""
    table = a_table(tmp_path)
    assert table.rows_of(["d", "nobody", "a"]).tolist() == [3, 0]
    assert table.rows_of([]).dtype == np.int32


def test_an_empty_catalogue_is_a_table_without_rows(tmp_path: Path) -> None:
    """Nothing to recommend is not an error here."""
    write_item_table(tmp_path, [], np.empty(0, np.float32))
    table = ItemTable.read(tmp_path)
    assert len(table) == 0
    assert table.popular_rows.tolist() == []
    assert table.fresh_rows(7.0).tolist() == []


def test_a_truncated_file_is_corrupt_by_name(tmp_path: Path) -> None:
    """The error names the file."""
    a_table(tmp_path)
    path = tmp_path / ITEMS_FILE
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(BundleCorrupt, match=r"items\.parquet"):
        ItemTable.read(tmp_path)


def test_an_item_named_twice_is_refused(tmp_path: Path) -> None:
    """A row must mean one item."""
    write_item_table(tmp_path, [Item("a"), Item("a")], np.zeros(2, np.float32))
    with pytest.raises(BundleCorrupt, match="twice"):
        ItemTable.read(tmp_path)
