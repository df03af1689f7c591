"""Novelty, diversity and concentration of lists small enough to compute by hand."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.list_traits import ListTraits
from recsys.slate_traits import diversity_of, novelty_of
from recsys.types import Item
from train_app.evaluation.breakdown.held_out_traits import held_out_traits
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.evaluation.metrics import bootstrap_gini, bootstrap_mean, gini
from train_app.examples.interactions import interactions_from_columns


def traits_of(categories: dict[str, tuple[str, ...]]) -> ListTraits:
    """Three users met `a` before the cutoff, one of them `b`; `c` and `d` nobody."""
    items = [Item(item_id, "", names) for item_id, names in categories.items()]
    data = interactions_from_columns(
        ["u", "v", "w", "w", "u"], ["a", "a", "a", "b", "c"], ["click"] * 5, range(5), items=items
    )
    return held_out_traits(hold_out("time", data, cutoff_ms=4, negative_kinds=(), seed=0))


def test_rare_items_are_novel_and_padding_is_not_counted() -> None:
    """With one more user than the three: `a` 0 bits, `b` 1, those nobody met 2."""
    traits = traits_of({"a": (), "b": (), "c": (), "d": ()})
    lists = np.array([[0, 1, -1], [2, 3, 1], [-1, -1, -1]], np.int32)
    assert traits.bits.tolist() == pytest.approx([0.0, 1.0, 2.0, 2.0])
    assert novelty_of(traits, lists).tolist() == pytest.approx([0.5, 5 / 3, 0.0])


def test_lists_of_one_category_are_not_diverse() -> None:
    """Same sets 0, disjoint sets 1, half shared 1/2; a list of one item has no pairs."""
    traits = traits_of({"a": ("x",), "b": ("x",), "c": ("y",), "d": ("x", "y")})
    lists = np.array([[0, 1], [0, 2], [3, -1]], np.int32)
    found = diversity_of(traits, lists)
    assert found is not None
    assert found.tolist() == pytest.approx([0.0, 1.0, 0.0])
    three = diversity_of(traits, np.array([[0, 2, 3]], np.int32))
    assert three is not None
    assert three[0] == pytest.approx(1 - (0 + np.sqrt(0.5) + np.sqrt(0.5)) / 3)


def test_a_catalogue_without_categories_has_no_diversity() -> None:
    """Nothing is made up."""
    traits = traits_of({"a": (), "b": (), "c": (), "d": ("x",)})
    assert diversity_of(traits, np.array([[0, 1]], np.int32)) is None


def test_diversity_is_one_minus_the_mean_cosine_of_all_pairs() -> None:
    """The sum of squares equals the pairs counted one by one."""
    rng = np.random.default_rng(0)
    sets = rng.random((20, 11)) < 0.3
    sets[:, 0] |= ~sets.any(axis=1)
    names = [tuple(f"c{one}" for one in np.flatnonzero(own)) for own in sets]
    places = rng.integers(0, 20, (7, 6)).astype(np.int32)
    found = diversity_of(ListTraits.of(names, np.ones(20), 20.0), places)
    assert found is not None
    units = sets / np.linalg.norm(sets, axis=1, keepdims=True)
    for one, chosen in zip(found, places, strict=True):
        cosines = (units[chosen] @ units[chosen].T)[np.triu_indices(6, 1)]
        assert one == pytest.approx(1 - cosines.mean(), abs=1e-9)


def test_gini_is_0_for_equal_and_near_1_for_one() -> None:
    """All alike 0; one of n has everything (n - 1) / n; nothing shown 0."""
    assert gini(np.ones(10)) == pytest.approx(0.0)
    assert gini(np.array([0.0] * 9 + [5.0])) == pytest.approx(0.9)
    assert gini(np.zeros(4)) == pytest.approx(0.0)
    assert gini(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(0.25)


def test_the_gini_interval_holds_its_estimate_and_padding_is_no_item() -> None:
    """Bounds lie around the estimate."""
    rows = np.random.default_rng(1).integers(-1, 50, size=(80, 10)).astype(np.int32)
    interval = bootstrap_gini(rows, 50, np.arange(80), seed=0)
    assert interval.low < interval.mean < interval.high
    assert interval.mean == pytest.approx(gini(np.bincount(rows[rows >= 0], minlength=50)))


def test_a_weighted_mean_is_normalised_in_every_resample() -> None:
    """Constant values have no interval whatever the weights; else the weights pull the mean."""
    users = np.arange(40)
    weights = np.linspace(1, 9, 40)
    constant = bootstrap_mean(np.full(40, 0.3), users, 0, weights=weights)
    assert (constant.low, constant.high) == (pytest.approx(0.3), pytest.approx(0.3))
    rising = bootstrap_mean(np.linspace(0, 1, 40), users, 0, weights=weights)
    assert rising.low < rising.mean < rising.high
    assert rising.mean == pytest.approx(np.average(np.linspace(0, 1, 40), weights=weights))
