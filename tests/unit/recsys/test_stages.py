"""Stages as pure functions: ordering against its policy, and what every stage refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundles.bundle import read_manifest
from recsys.errors import BundleError, FeatureSchemaMismatch, SpaceMismatch
from recsys.settings import OrderingSettings, Settings
from recsys.slate import ItemFacts
from recsys.stages import (
    OrderingStage,
    load_stage,
    shard_stage_name,
    stage_names,
)
from recsys.types import Batch
from tests.bundles_for_tests import Draft, build_bundle, small_settings
from tests.slates_for_tests import order_candidates

N_ITEMS = 50
DIM = 8


def an_ordering(policy: OrderingSettings) -> tuple[OrderingStage, ItemFacts]:
    """An ordering stage over random vectors."""
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((N_ITEMS, DIM)).astype(np.float32)
    codes = [rng.integers(-1, top, N_ITEMS).astype(np.int32) for top in (4, 6)]
    facts = ItemFacts(vectors, *codes)
    return OrderingStage(facts, policy), facts


def a_scored_batch(seed: int, n_requests: int, n_candidates: int) -> Batch:
    """Distinct rows with padding at the end and some estimates that are not finite."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(N_ITEMS)[:n_candidates] for _ in range(n_requests)])
    utility = rng.standard_normal(rows.shape).astype(np.float32)
    utility[rng.random(rows.shape) < 0.1] = np.nan
    rows[:, n_candidates - 3 :] = -1
    return {
        "rows": rows.astype(np.int32),
        "utility": utility,
        "k": rng.integers(1, 12, n_requests).astype(np.int32),
        "seeds": rng.integers(0, 2**63, n_requests).astype(np.uint64),
    }


@given(seed=st.integers(0, 10_000), pool=st.integers(1, 40), diversity=st.sampled_from([0.0, 0.4]))
@settings(deadline=None, max_examples=40)
def test_the_ordering_stage_is_the_policy_over_all_candidates(
    seed: int, pool: int, diversity: float
) -> None:
    """What is usable and where an item's facts stand is all that the stage adds."""
    policy = OrderingSettings(pool=pool, diversity=diversity, exploration=0.3, max_per_category=2)
    stage, facts = an_ordering(policy)
    batch = a_scored_batch(seed, n_requests=4, n_candidates=30)
    answer = stage("order", batch)
    usable = (batch["rows"] >= 0) & np.isfinite(batch["utility"])
    safe = np.maximum(batch["rows"], 0)
    expected = order_candidates(
        np.where(usable, batch["utility"], -np.inf).astype(np.float32),
        facts.vectors[safe],
        facts.categories[safe],
        facts.creators[safe],
        batch["k"],
        batch["seeds"],
        policy,
    )
    assert np.array_equal(answer["picked"], expected.picked)
    assert np.allclose(answer["propensity"], expected.propensity)


@given(seed=st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_a_slate_does_not_depend_on_its_batch_neighbours(seed: int) -> None:
    """Batching must not change an answer."""
    stage, _ = an_ordering(OrderingSettings(pool=8, exploration=0.5))
    batch = a_scored_batch(seed, n_requests=5, n_candidates=30)
    together = stage("order", batch)
    for i in range(5):
        alone = stage("order", {name: array[i : i + 1] for name, array in batch.items()})
        k = batch["k"][i]
        assert np.array_equal(alone["picked"][0], together["picked"][i, :k])
        assert (together["picked"][i, k:] == -1).all()


def test_ordering_nothing_answers_empty_slates() -> None:
    """A request without candidates gets an empty slate, not an error."""
    stage, _ = an_ordering(OrderingSettings())
    empty = {
        "rows": np.empty((2, 0), np.int32),
        "utility": np.empty((2, 0), np.float32),
        "k": np.asarray([3, 5], np.int32),
        "seeds": np.asarray([1, 2], np.uint64),
    }
    assert (stage("order", empty)["picked"] == -1).all()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A small bundle directory, read only."""
    root = tmp_path_factory.mktemp("stages")
    chosen = small_settings(root)
    build_bundle(root / "bundle", chosen)
    return root / "bundle", chosen


def test_every_stage_of_a_bundle_answers_finite_numbers(bundle: tuple[Path, Settings]) -> None:
    """Encode, search, score and order join up by shape alone."""
    directory, chosen = bundle
    manifest = read_manifest(directory)
    features: Batch = {
        "items": np.full((2, 20), -1, np.int32),
        "kinds": np.zeros((2, 20), np.uint8),
        "ages_s": np.zeros((2, 20), np.float32),
    }
    stages = {name: load_stage(name, directory, manifest, chosen) for name in stage_names(2)}
    assert all(stage.nbytes > 0 for stage in stages.values())
    user_emb = stages["scorer"]("encode", features)["user_emb"]
    found = stages["shard-001"]("search", {"user_emb": user_emb, "k": np.asarray([7], np.int32)})
    assert found["rows"].shape == (2, 7)
    assert (found["rows"] % 2 == 1).all()
    scored = stages["scorer"](
        "score",
        {
            **features,
            "user_emb": user_emb,
            "rows": found["rows"],
            "sources": np.zeros((2, 7), np.int8),
            "ranks": np.tile(np.arange(7, dtype=np.int32), (2, 1)),
        },
    )
    assert np.allclose(scored["retrieval_scores"], found["scores"], atol=1e-4)
    assert np.isfinite(scored["utility"]).all()
    assert scored["probabilities"].shape == (2, 7, 3)


def test_an_unknown_stage_or_method_is_refused_by_name(bundle: tuple[Path, Settings]) -> None:
    """A wrong call says what there is."""
    directory, chosen = bundle
    manifest = read_manifest(directory)
    with pytest.raises(BundleError, match="shard-002"):
        load_stage(shard_stage_name(2), directory, manifest, chosen)
    for name in ("scorer", "shard-000", "ordering"):
        with pytest.raises(BundleError, match="paint"):
            load_stage(name, directory, manifest, chosen)("paint", {})


def test_stages_of_another_space_or_schema_do_not_load(bundle: tuple[Path, Settings]) -> None:
    """A vector of one space never meets an index of another."""
    directory, chosen = bundle
    manifest = read_manifest(directory)
    foreign = Draft("0" * 64, manifest.feature_schema, manifest.feature_schema_hash, 2)
    with pytest.raises(SpaceMismatch):
        load_stage("shard-000", directory, foreign, chosen)
    other = Draft(manifest.space_fingerprint, manifest.feature_schema, "0" * 16, 2)
    with pytest.raises(FeatureSchemaMismatch):
        load_stage("scorer", directory, other, chosen)
