"""The people of the demo, and the files it imports."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from cluster.demo.demo_audience import DataAudience, audience_of_rows, write_history, write_items
from recsys.simulated.simulated_population import DAY_MS, WorldSettings
from recsys.simulated.simulation import World

LAW = WorldSettings(n_users=10, n_items=50)
HISTORIES = {"ann": ["a", "b"], "bob": ["a", "b", "c"], "cyd": ["x", "y"]}


def click_share(user_id: str, item_id: str) -> float:
    audience = DataAudience(HISTORIES)
    rng = np.random.default_rng(0)
    return sum(bool(audience.react(user_id, [item_id], 0, rng)) for _ in range(500)) / 500


def test_people_click_what_people_like_them_engaged_with() -> None:
    """An item of a like-minded user is clicked far more often than a stranger's."""
    assert click_share("ann", "c") > 5 * click_share("ann", "x") > 0
    assert click_share("ann", "unheard of") < 0.1


def test_people_discover_items_of_those_who_share_one() -> None:
    """What Cyd alone knows, Ann never comes across."""
    audience = DataAudience(HISTORIES)
    rng = np.random.default_rng(1)
    found = {audience.discover("ann", 0, rng) for _ in range(200)}
    assert found == {"a", "b", "c"}


def test_equal_generators_bring_equal_reactions() -> None:
    """Two bundles can be shown to the same people with the same luck."""
    audience = DataAudience(HISTORIES)
    slate = ["a", "c", "x"]
    first, second = (audience.react("ann", slate, 0, np.random.default_rng(4)) for _ in range(2))
    assert first == second


def test_the_history_is_written_as_an_import_reads_it(tmp_path: Path) -> None:
    """Columns by their known names, times in milliseconds."""
    log = World(LAW, 0).history(5.0, 3, np.random.default_rng(0))
    write_history(log, tmp_path / "history.csv")
    with (tmp_path / "history.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["item_id"] for row in rows] == log.item_ids
    assert [int(row["timestamp"]) for row in rows] == log.timestamps_ms.tolist()
    assert set(rows[0]) == {"user_id", "item_id", "kind", "timestamp"}


def test_the_catalogue_is_written_with_everything_an_item_has(tmp_path: Path) -> None:
    """Titles and categories reach the item tower."""
    items = World(LAW, 0).items(LAW.start_ms + 5 * DAY_MS)
    write_items(items, tmp_path / "items.csv")
    with (tmp_path / "items.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(r["item_id"], r["title"], int(r["created"])) for r in rows] == [
        (item.item_id, item.title, item.created_ms) for item in items
    ]
    assert rows[0]["categories"] == items[0].categories[0]


def test_an_audience_of_imported_data_is_its_most_active_users() -> None:
    """Histories come out of the lake in time order."""
    audience = audience_of_rows([("bob", 3, "c"), ("ann", 2, "b"), ("ann", 1, "a")])
    assert audience is not None
    assert audience.user_ids == ["ann", "bob"]
    assert audience.discover("bob", 0, np.random.default_rng(0)) == "c"
    assert audience._histories["ann"] == ["a", "b"]


def test_no_engagement_makes_no_audience() -> None:
    """An empty lake is said to be empty."""
    assert audience_of_rows([]) is None


def test_both_audiences_react_the_same_way_to_an_empty_slate() -> None:
    """A degraded answer of nothing is answered by nothing."""
    for audience in (World(LAW, 0), DataAudience(HISTORIES)):
        user = audience.user_ids[0]
        assert audience.react(user, [], 0, np.random.default_rng(0), remember=False) == []


def test_an_unknown_user_of_the_data_is_a_mistake() -> None:
    """The audience only speaks for the people it has."""
    with pytest.raises(KeyError):
        DataAudience(HISTORIES).react("dan", ["a"], 0, np.random.default_rng(0))
