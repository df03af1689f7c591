"""What a gateway says of its slates is what the evaluation says of the same lists."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.item_table import ItemTable, write_item_table
from recsys.slate_traits import diversity_of, novelty_of
from recsys.types import Item
from serve_app.answer_columns import traits_of_slates
from train_app.evaluation.breakdown.held_out_traits import held_out_traits
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.examples.interactions import interactions_from_columns

ITEMS = [
    Item("a", "", ("x",), "ann"),
    Item("b", "", ("x", "y"), "bob"),
    Item("c", "", ("y", "z"), "ann"),
    Item("d", "", (), ""),
]
CANDIDATES = np.array([[3, 2, 1, 0], [1, 0, 2, -1], [0, -1, -1, -1]], np.int32)


def a_table(folder: Path, popularity: list[float], items: list[Item] = ITEMS) -> ItemTable:
    """The item table of a bundle."""
    write_item_table(folder, items, np.array(popularity, np.float32))
    return ItemTable.read(folder)


def test_a_gateway_and_the_evaluation_describe_a_list_alike(tmp_path: Path) -> None:
    """Four users of one engagement each: a share of users is one of engagements."""
    data = interactions_from_columns(
        list("stuvs"), list("aabcd"), ["click"] * 5, range(5), items=ITEMS
    )
    evaluated = held_out_traits(hold_out("time", data, cutoff_ms=4, negative_kinds=(), seed=0))
    picked = np.array([[0, 3, 1], [2, 1, -1], [0, -1, -1]], np.int32)
    lists = np.array([[3, 0, 2], [2, 0, -1], [0, -1, -1]], np.int32)
    table = a_table(tmp_path, [2.0, 1.0, 1.0, 0.0])
    diversity, novelty = traits_of_slates(table.traits, CANDIDATES, picked)
    expected = diversity_of(evaluated, lists)
    assert expected is not None
    assert diversity == pytest.approx(expected.tolist())
    assert novelty == pytest.approx(novelty_of(evaluated, lists).tolist())


def test_the_figures_are_those_made_by_hand(tmp_path: Path) -> None:
    """Shares of 3, 2, 2 and 1 of 5; `a` and `b` share one of one and two categories."""
    table = a_table(tmp_path, [2.0, 1.0, 1.0, 0.0])
    picked = np.array([[3, 2], [1, 0], [-1, -1]], np.int32)
    diversity, novelty = traits_of_slates(table.traits, CANDIDATES, picked)
    bits = -np.log2(np.array([3, 2, 2, 1]) / 5)
    half = 1 - 1 / np.sqrt(2)
    assert diversity == [pytest.approx(half), pytest.approx(half), None]
    assert novelty == [pytest.approx(bits[:2].mean()), pytest.approx(bits[:2].mean()), None]


def test_a_slate_of_nothing_and_a_catalogue_without_categories_say_nothing(
    tmp_path: Path,
) -> None:
    """None, never 0."""
    table = a_table(tmp_path, [1.0, 0.0], [Item("a", ""), Item("b", "")])
    assert traits_of_slates(table.traits, CANDIDATES[:, :0], np.zeros((3, 0), np.int32)) == (
        [None] * 3,
        [None] * 3,
    )
    rows, picked = np.array([[0, 1]], np.int32), np.array([[1, 0]], np.int32)
    diversity, novelty = traits_of_slates(table.traits, rows, picked)
    assert diversity == [None]
    assert novelty == pytest.approx([(np.log2(2 / 2) + np.log2(2)) / 2])
