"""Examples: the lake's engagements as arrays, and their splits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.settings import Settings
from recsys.types import Item
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.examples.lake_examples import load_interactions, split_by_time
from train_app.lake.lake_rows import append_import, complete_rows
from train_app.lake.lake_tables import Lake


def put(data_dir: Path, table: str, rows: list[dict[str, Any]], day_column: str) -> None:
    """Append rows to a lake table."""
    lake = Lake(str(data_dir / "lake"))
    whole = complete_rows(table, pa.Table.from_pylist(rows), day_column)
    whole = whole.sort_by("event_date")
    append_import(lake, table, [whole], lake.open(table).mark("import"), {})


def put_engagements(data_dir: Path, rows: list[tuple[str, str, str, int, float | None]]) -> None:
    """Engagements in order of arrival: user, item, kind, time, value."""
    names = ("user_id", "item_id", "kind", "timestamp_ms", "value")
    table = [
        {**dict(zip(names, row, strict=True)), "sequence": n, "log_partition": None}
        for n, row in enumerate(rows)
    ]
    put(data_dir, "engagements", table, "timestamp_ms")


def load(data_dir: Path, **options: Any) -> Interactions:
    """The interactions of a lake under `data_dir`."""
    settings = Settings(data_dir=data_dir)
    return load_interactions(settings.lake_location, settings, **options)


def built(times: list[tuple[str, int]]) -> Interactions:
    """Interactions of these users and times."""
    users = [user for user, _ in times]
    return interactions_from_columns(users, users, ["view"] * len(users), [t for _, t in times])


def test_what_is_loaded_equals_what_columns_in_order_of_arrival_give(tmp_path: Path) -> None:
    """Users, kinds, ties and missing values come out as `interactions_from_columns` has them."""
    rng = np.random.default_rng(3)
    rows = [
        (
            f"{'uU~ü'[rng.integers(4)]}{rng.integers(9)}",
            f"i{rng.integers(20)}",
            str(rng.choice(["view", "buy", "add", "like"], p=[0.4, 0.2, 0.2, 0.2])),
            int(rng.integers(6)) * 40_000_000,
            None if rng.random() < 0.3 else float(rng.integers(5)),
        )
        for _ in range(400)
    ]
    catalogue = [
        {"item_id": f"i{n}", "title": f"T{n}", "categories": ["a"], "creator": "c",
         "created_ms": n, "deleted": False, "timestamp_ms": 5, "sequence": n}
        for n in (3, 1, 99)
    ]  # fmt: skip
    put_engagements(tmp_path, rows)
    put(tmp_path, "catalogue", catalogue, "timestamp_ms")
    loaded = load(tmp_path)
    listed = {item_id: Item(item_id, f"T{item_id[1:]}", ("a",), "c", int(item_id[1:]))
              for item_id in ("i1", "i3", "i99")}  # fmt: skip
    bare = [Item(item_id) for item_id in sorted({row[1] for row in rows} - set(listed))]
    users, items, kinds, times, values = zip(*rows, strict=True)
    graded = np.array([np.nan if value is None else value for value in values])
    expected = interactions_from_columns(
        users, items, kinds, times, graded, items=[*listed.values(), *bare]
    )
    assert loaded.user_ids == expected.user_ids
    assert loaded.items == expected.items
    assert loaded.kinds == expected.kinds
    for name in ("offsets", "rows", "kind_ids", "timestamps_ms", "values"):
        found, wanted = getattr(loaded, name), getattr(expected, name)
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)
    assert loaded.lineage["lake_versions"] == {"engagements": 1, "catalogue": 1}


def test_deleted_items_leave_with_their_engagements_until_they_are_put_back(
    tmp_path: Path,
) -> None:
    """Of an item's entries the newest is in force."""
    put_engagements(tmp_path, [("u", "a", "view", 1, None), ("v", "b", "view", 2, None)])
    entry = {"item_id": "a", "title": "A", "categories": [], "creator": "", "sequence": 0}
    put(tmp_path, "catalogue", [{**entry, "deleted": False, "timestamp_ms": 1}], "timestamp_ms")
    put(tmp_path, "catalogue", [{**entry, "deleted": True, "timestamp_ms": 2}], "timestamp_ms")
    gone = load(tmp_path)
    assert (gone.user_ids, [item.item_id for item in gone.items]) == (["v"], ["b"])
    put(tmp_path, "catalogue", [{**entry, "deleted": False, "timestamp_ms": 3}], "timestamp_ms")
    back = load(tmp_path)
    assert (back.user_ids, [item.item_id for item in back.items]) == (["u", "v"], ["a", "b"])


def test_only_what_happened_before_a_given_time_is_read(tmp_path: Path) -> None:
    """The bound is strict, and nothing before it is an error that says so."""
    put_engagements(tmp_path, [("u", "a", "view", 10, None), ("v", "b", "view", 20, None)])
    early = load(tmp_path, until_ms=20)
    assert (early.user_ids, early.lineage["until_ms"]) == (["u"], 20)
    with pytest.raises(DataError, match="before 10 ms"):
        load(tmp_path, until_ms=10)
    assert not (tmp_path / "tmp").exists()


def test_a_lake_without_engagements_says_what_to_do(tmp_path: Path) -> None:
    """The first command of a new user may be train."""
    with pytest.raises(DataError, match="cluster import"):
        load(tmp_path)


@hypothesis_settings(deadline=None, max_examples=50)
@given(
    st.lists(st.integers(0, 30), min_size=2, max_size=60).filter(lambda t: len(set(t)) > 1),
    st.floats(0.01, 0.49),
)
def test_a_time_split_holds_out_the_newest_and_leaves_some(times: list[int], share: float) -> None:
    """Everything held out is at or after the cutoff; both sides have something."""
    cutoff_ms = split_by_time(built([("u", time) for time in times]), share)
    held_out = sum(time >= cutoff_ms for time in times)
    assert 0 < held_out < len(times)
    strictly_newer = sum(time > cutoff_ms for time in times)
    assert strictly_newer < max(1, round(share * len(times)))


def test_a_time_split_of_one_moment_is_refused() -> None:
    """There is no newest part."""
    with pytest.raises(DataError, match="same time"):
        split_by_time(built([("u", 5), ("v", 5)]), 0.1)
