"""The item table of a bundle: which item each row is, and what the request path reads of items.

Its row order defines the rows of every vector, shard and score of the bundle. Knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.errors import BundleCorrupt
from recsys.list_traits import ListTraits
from recsys.types import NO_ROW, FloatArray, Item, RowArray

ITEMS_FILE = "items.parquet"
MS_PER_DAY = 86_400_000
_ATTRIBUTES = ("title", "categories", "creator", "created_ms", "available")
NO_CODE = -1
"""The code of an item without a category or creator; no cap counts it."""


@dataclass(frozen=True, slots=True)
class ItemCodes:
    """First category and creator of every item as small integers, for caps; [N] each."""

    categories: RowArray
    creators: RowArray


@dataclass(frozen=True, slots=True)
class ItemTable:
    """Every item of a bundle by row, without the model's numbers."""

    item_ids: list[str]
    row_of: Mapping[str, int]
    titles: list[str]
    codes: ItemCodes
    created_ms: NDArray[np.int64]  # [N], -1 where unknown
    popularity: FloatArray  # [N], engagements of the recent training data
    available: NDArray[np.bool_]  # [N]
    popular_rows: RowArray  # available rows, most popular first, ties by row
    traits: ListTraits  # novelty by an item's share of all recent engagements

    @classmethod
    def read(cls, directory: Path) -> ItemTable:
        """Read `items.parquet` of a bundle directory.

        Raises:
            BundleCorrupt: the file is missing, unreadable, or names an item twice.
        """
        columns = _read_columns(directory, None)
        item_ids: list[str] = columns["item_id"].to_pylist()
        row_of = {item_id: row for row, item_id in enumerate(item_ids)}
        if len(row_of) != len(item_ids):
            raise BundleCorrupt(f"{directory / ITEMS_FILE} names an item twice; publish it again")
        popularity = columns["popularity"].to_numpy(zero_copy_only=False).astype(np.float32)
        available = columns["available"].to_numpy(zero_copy_only=False).astype(np.bool_)
        created = columns["created_ms"].fill_null(-1).to_numpy(zero_copy_only=False)
        by_popularity = np.argsort(-popularity, kind="stable").astype(np.int32)
        categories = columns["categories"].to_pylist()
        return cls(
            item_ids=item_ids,
            row_of=row_of,
            titles=columns["title"].to_pylist(),
            codes=_codes(categories, columns["creator"].to_pylist()),
            created_ms=created.astype(np.int64),
            popularity=popularity,
            available=available,
            popular_rows=by_popularity[available[by_popularity]],
            traits=ListTraits.of(categories, popularity, float(popularity.sum(dtype=np.float64))),
        )

    def __len__(self) -> int:
        """Number of items, N."""
        return len(self.item_ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the table's arrays and strings, roughly."""
        strings = sum(map(len, self.item_ids)) + sum(map(len, self.titles))
        return strings + 180 * len(self) + self.popular_rows.nbytes + self.traits.nbytes

    def fresh_rows(self, fresh_days: float) -> RowArray:
        """Available rows created within `fresh_days` of the newest item, newest first."""
        known = self.available & (self.created_ms >= 0)
        if not known.any():
            return np.empty(0, np.int32)
        newest = int(self.created_ms[known].max())
        fresh = np.flatnonzero(known & (self.created_ms > newest - fresh_days * MS_PER_DAY))
        order = np.argsort(-self.created_ms[fresh], kind="stable")
        return fresh[order].astype(np.int32)

    def rows_of(self, item_ids: Sequence[str]) -> RowArray:
        """The rows of the ids the bundle knows; unknown ids are left out."""
        rows = [row for item_id in item_ids if (row := self.row_of.get(item_id, NO_ROW)) >= 0]
        return np.asarray(rows, np.int32)


def read_item_codes(directory: Path) -> ItemCodes:
    """Only the category and creator codes of a bundle directory, without keeping its strings."""
    columns = _read_columns(directory, ["categories", "creator"])
    return _codes(columns["categories"].to_pylist(), columns["creator"].to_pylist())


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What people know items by, from one bundle's table."""

    item_ids: list[str]
    """By row."""
    by_id: Mapping[str, tuple[object, ...]]
    """Item to title, categories, creator, creation time and availability."""


def read_item_ids(content: bytes) -> list[str]:
    """The item of each row, from the bytes of an `items.parquet`.

    Raises:
        ValueError: they are no item table.
    """
    item_ids: list[str] = _parse_columns(content, ["item_id"])["item_id"]
    return item_ids


def read_item_facts(content: bytes) -> ItemFacts:
    """The attributes of every item, from the bytes of an `items.parquet`.

    Raises:
        ValueError: they are no item table.
    """
    columns = _parse_columns(content, ["item_id", *_ATTRIBUTES])
    columns["categories"] = [tuple(names or ()) for names in columns["categories"]]
    rows = zip(*(columns[name] for name in _ATTRIBUTES), strict=True)
    return ItemFacts(columns["item_id"], dict(zip(columns["item_id"], rows, strict=True)))


def write_item_table(directory: Path, items: Sequence[Item], popularity: FloatArray) -> None:
    """Write `items.parquet`; the order of `items` becomes the rows of the bundle.

    Args:
        popularity: recent engagements of each item, [N].
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table(
        {
            "item_id": pa.array([item.item_id for item in items], pa.string()),
            "title": pa.array([item.title for item in items], pa.string()),
            "categories": pa.array(
                [list(item.categories) for item in items], pa.list_(pa.string())
            ),
            "creator": pa.array([item.creator for item in items], pa.string()),
            "created_ms": pa.array([item.created_ms for item in items], pa.int64()),
            "popularity": pa.array(np.asarray(popularity, np.float32), pa.float32()),
            "available": pa.array([item.available for item in items], pa.bool_()),
        }
    )
    directory.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, directory / ITEMS_FILE, compression="zstd")


def _parse_columns(content: bytes, names: list[str]) -> dict[str, list[Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(content), columns=names)
        return {name: table.column(name).to_pylist() for name in names}
    except (OSError, KeyError, pa.ArrowException) as error:
        raise ValueError(f"no item table: {error}") from error


def _read_columns(directory: Path, names: list[str] | None) -> dict[str, Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = directory / ITEMS_FILE
    try:
        table = pq.read_table(path, columns=names)
    except (OSError, pa.ArrowException) as error:
        raise BundleCorrupt(f"{path} cannot be read as an item table: {error}") from error
    return {name: table.column(name).combine_chunks() for name in table.column_names}


def _codes(categories: list[list[str] | None], creators: list[str | None]) -> ItemCodes:
    firsts = [names[0] if names else "" for names in categories]
    return ItemCodes(_code_of(firsts), _code_of(creators))


def _code_of(names: Sequence[str | None]) -> RowArray:
    code: dict[str, int] = {}
    codes = (code.setdefault(name, len(code)) if name else NO_CODE for name in names)
    return np.fromiter(codes, np.int32, len(names))
