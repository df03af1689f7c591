"""Ordering settings put over a bundle's own: their bytes, and the slates they give."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.ordering_overrides import (
    NO_OVERRIDES,
    OVERRIDES,
    overrides_array,
    pack_overrides,
    put_over,
)
from recsys.settings import OrderingSettings
from recsys.slate import ItemFacts
from recsys.stages import OrderingStage
from recsys.types import Batch

named_settings = st.fixed_dictionaries(
    {},
    optional={
        "pool": st.integers(1, 500),
        "diversity": st.floats(0, 1),
        "max_per_creator": st.integers(0, 9),
        "exploration": st.floats(0, 1),
        "temperature": st.floats(1e-6, 1e6),
    },
)


def a_stage(policy: OrderingSettings, n_items: int = 40) -> OrderingStage:
    """An ordering stage over random vectors."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((n_items, 8)).astype(np.float32)
    codes = rng.integers(-1, 4, (2, n_items)).astype(np.int32)
    return OrderingStage(ItemFacts(vectors, codes[0], codes[1]), policy)


def a_batch(utility: np.ndarray, k: int, n_seeds: int) -> Batch:
    """The same candidates once per seed."""
    return {
        "rows": np.tile(np.arange(len(utility), dtype=np.int32), (n_seeds, 1)),
        "utility": np.tile(utility.astype(np.float32), (n_seeds, 1)),
        "k": np.full(n_seeds, k, np.int32),
        "seeds": np.arange(n_seeds, dtype=np.uint64),
    }


@settings(deadline=None, max_examples=50)
@given(named_settings, named_settings)
def test_what_is_named_is_changed_and_the_rest_stays(
    own: dict[str, Any], named: dict[str, Any]
) -> None:
    """Through the bytes that travel, whatever order the names are in."""
    policy = OrderingSettings.model_validate(own)
    packed = pack_overrides(named)
    assert packed == pack_overrides(dict(reversed(named.items())))
    assert (packed == NO_OVERRIDES) == (not named)
    assert overrides_array(packed).tobytes() == packed
    found = put_over(policy, packed)
    assert found.model_dump() == policy.model_dump() | named


@pytest.mark.parametrize(
    "ordering",
    [{"novelty": 1}, {"diversity": 2.0}, {"pool": 0}, {"exploration": float("nan")}, {"pool": {}}],
)
def test_what_is_no_ordering_setting_is_refused(ordering: dict[str, Any]) -> None:
    """Where it is packed, so that no stage is asked in vain."""
    with pytest.raises(ConfigError, match="expected some of pool, diversity"):
        pack_overrides(ordering)


@pytest.mark.parametrize("overrides", [b"\xff", b"{", b"[1]", b"3", b'{"novelty": 1}'])
def test_bytes_that_a_stage_cannot_read_fail_the_call(overrides: bytes) -> None:
    """Whatever sent them."""
    with pytest.raises(ConfigError, match="cannot be read"):
        put_over(OrderingSettings(), overrides)


@settings(deadline=None, max_examples=30)
@given(own=named_settings, named=named_settings, seed=st.integers(0, 1000))
def test_a_stage_orders_with_overrides_as_one_whose_bundle_has_them(
    own: dict[str, Any], named: dict[str, Any], seed: int
) -> None:
    """The same slates and the same propensities, and its own again for the next batch."""
    rng = np.random.default_rng(seed)
    batch = a_batch(rng.standard_normal(40), 10, 6)
    before = OrderingSettings.model_validate(own)
    stage = a_stage(before)
    plain = stage("order", batch)
    changed = stage("order", batch | {OVERRIDES: overrides_array(pack_overrides(named))})
    expected = a_stage(OrderingSettings.model_validate(own | named))("order", batch)
    for name in ("picked", "propensity"):
        np.testing.assert_array_equal(changed[name], expected[name])
        np.testing.assert_array_equal(stage("order", batch)[name], plain[name])


def test_propensities_under_overrides_are_those_of_the_changed_policy() -> None:
    """By enumeration of all slates of 2 out of 4: exploration 0.6 at temperature 2, score order
    otherwise; and as often as each slate is drawn.
    """
    utility, exploration, temperature = np.asarray([0.3, 2.0, -1.0, 1.1]), 0.6, 2.0
    named = {"exploration": exploration, "temperature": temperature, "diversity": 0.0, "pool": 4}
    batch = a_batch(utility, 2, 20_000)
    stage = a_stage(OrderingSettings(exploration=0.05, diversity=0.4, max_per_creator=1))
    packed = pack_overrides({**named, "max_per_creator": 0})
    found = stage("order", batch | {OVERRIDES: overrides_array(packed)})
    total = 0.0
    for slate in itertools.permutations(range(4), 2):
        expected, left = [], [0, 1, 2, 3]
        for column in slate:
            weights = np.exp(utility[left] / temperature)
            drawn = weights[left.index(column)] / weights.sum()
            is_best = column == max(left, key=lambda one: utility[one])
            expected.append(exploration * drawn + (1 - exploration) * is_best)
            left.remove(column)
        share = float(np.prod(expected))
        total += share
        of_slate = (found["picked"] == slate).all(axis=1)
        np.testing.assert_allclose(found["propensity"][of_slate], [expected] * of_slate.sum(), 1e-5)
        deviation = np.sqrt(share * (1 - share) / len(of_slate))
        assert abs(of_slate.mean() - share) < 4.5 * deviation
    assert total == pytest.approx(1.0)
