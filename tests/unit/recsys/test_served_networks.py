"""Networks as they answer requests: the numbers of the trained ones, whatever shape they have."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.item_successors import ItemSuccessors
from recsys.scorer import CandidateScorer
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.served.served_scorer import ServedScorer
from recsys.served.served_tower import ServedTower
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Batch, Source

N_ITEMS = 40
DAY_S = 86_400.0


def shaken(module: torch.nn.Module, seed: int) -> None:
    """Weights that are all different, zeros too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def an_encoder(
    seed: int, n_layers: int = 2, n_heads: int = 2, history_length: int = 9
) -> UserEncoder:
    """Towers of random weights, shrunk as training leaves them."""
    config = TowerConfig(N_ITEMS, 8, n_layers, n_heads, history_length, ("view", "like"), 4)
    model = TwoTower(config, np.full((N_ITEMS, 1), -1, np.int32), np.ones(N_ITEMS, np.bool_))
    shaken(model, seed)
    model.user.previous_share.fill_(0.3)
    model.user.common.copy_(torch.linspace(-1, 1, 8))
    return UserEncoder.of(model.eval())


def histories(seed: int, n_requests: int, width: int) -> Batch:
    """Right aligned, of all lengths, with gaps on the bounds of buckets."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, width + 1, n_requests)
    is_event = np.arange(width) >= width - lengths[:, None]
    shape = is_event.shape
    gaps_s = rng.choice([0.0, 299.999, 300.0, 3_600.0, DAY_S, 14 * DAY_S], shape)
    ages_s = np.cumsum(gaps_s[:, ::-1], axis=1)[:, ::-1]
    return {
        "items": np.where(is_event, rng.integers(0, N_ITEMS, shape), -1).astype(np.int32),
        "kinds": np.where(is_event, rng.integers(1, 4, shape), 0).astype(np.uint8),
        "ages_s": np.where(is_event, ages_s, 0.0),
    }


def a_scorer(
    seed: int, hidden: tuple[int, ...] = (12, 6), *, n_sources: int = 3, follows: bool = False
) -> CandidateScorer:
    """A scorer of random weights over random items."""
    rng = np.random.default_rng(seed)
    config = ScorerConfig(
        n_items=N_ITEMS,
        embedding_dim=8,
        hidden_dims=hidden,
        actions=("view", "like", "dismiss"),
        utility_weights=(1.0, 5.0, -3.0),
        score_center=0.4,
        score_spread=1.7,
        user_scale=0.8,
        vector_scale=1.3,
        action_log_odds=(0.5, -1.0, -2.0),
        action_trust=(1.0, 0.4, 0.0),
        is_negative=(False, False, True),
        acted_rate=0.03,
        blend=0.6,
        slope=1.2,
        offset=-0.7,
        n_sources=n_sources,
        reads_successors=follows,
        chance_center=-3.0,
        chance_spread=1.5,
    )
    network = ScorerNetwork(config)
    shaken(network, seed)
    table = ItemSuccessors(
        np.arange(N_ITEMS + 1, dtype=np.int64) * 3,
        rng.integers(0, N_ITEMS, 3 * N_ITEMS).astype(np.int32),
        rng.random(3 * N_ITEMS).astype(np.float32),
        (rng.random(N_ITEMS) + 0.01).astype(np.float32),
    )
    vectors = torch.from_numpy(rng.normal(size=(N_ITEMS, 8)).astype(np.float32))
    popularity = torch.from_numpy(rng.normal(size=N_ITEMS).astype(np.float32))
    return CandidateScorer(config, network.eval(), vectors, popularity, table)


def candidates(seed: int, n_requests: int, n_candidates: int) -> Batch:
    """Of every source there is, with padding."""
    rng = np.random.default_rng(seed)
    shape = (n_requests, n_candidates)
    rows = rng.integers(-1, N_ITEMS, shape).astype(np.int32)
    return {
        "user_emb": rng.normal(size=(n_requests, 8)).astype(np.float32),
        "rows": rows,
        "sources": np.where(rows < 0, -1, rng.integers(0, len(Source), shape)).astype(np.int8),
        "ranks": np.where(rows < 0, -1, rng.integers(0, 300, shape)).astype(np.int32),
    }


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    n_layers=st.integers(1, 3),
    n_heads=st.sampled_from([1, 2, 4]),
    history_length=st.integers(1, 12),
    n_requests=st.integers(0, 5),
    width=st.integers(1, 14),
)
def test_a_served_tower_encodes_as_the_trained_one(
    seed: int, n_layers: int, n_heads: int, history_length: int, n_requests: int, width: int
) -> None:
    """Empty histories, ones longer than the tower reads, and no request at all."""
    encoder = an_encoder(seed, n_layers, n_heads, history_length)
    batch = histories(seed, n_requests, width)
    found = ServedTower(encoder, 1).encode(batch)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, encoder.encode(batch), rtol=1e-4, atol=1e-5)


def test_an_item_beyond_the_tower_is_refused() -> None:
    """The compiled loops would read whatever lies behind the vectors."""
    batch = histories(1, 3, 5)
    batch["items"][1, -1] = N_ITEMS
    with pytest.raises(IndexError, match="beyond the 40 of the tower"):
        ServedTower(an_encoder(0), 1).encode(batch)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    hidden=st.sampled_from([(5,), (12, 6), (4, 9, 3)]),
    n_sources=st.integers(1, 5),
    follows=st.booleans(),
    n_requests=st.integers(1, 5),
    n_candidates=st.integers(0, 30),
    width=st.sampled_from([1, 7, 20, 33]),
)
def test_a_served_scorer_scores_as_the_trained_one(
    seed: int,
    hidden: tuple[int, ...],
    n_sources: int,
    follows: bool,
    n_requests: int,
    n_candidates: int,
    width: int,
) -> None:
    """Sources that came after training, histories shorter and longer than it attends to."""
    scorer = a_scorer(seed, hidden, n_sources=n_sources, follows=follows)
    batch = histories(seed, n_requests, width) | candidates(seed, n_requests, n_candidates)
    found, expected = ServedScorer(scorer, 1).score(batch), scorer.score(batch)
    assert found.keys() == expected.keys()
    shown = batch["rows"] >= 0
    np.testing.assert_array_equal(found["utility"][~shown], -np.inf)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_allclose(found[name][shown], array[shown], rtol=1e-4, atol=1e-5)


def test_what_is_not_finite_sinks_and_takes_no_other_along() -> None:
    """A broken embedding leaves its neighbours' estimates whole; a broken weight leaves none."""
    scorer = a_scorer(3)
    batch = histories(3, 2, 9) | candidates(3, 2, 12)
    batch["rows"] = np.abs(batch["rows"])
    whole = ServedScorer(scorer, 1).score(batch)["utility"]
    batch["user_emb"][0, 2] = np.nan
    broken = ServedScorer(scorer, 1).score(batch)["utility"]
    assert (broken[0] == -np.inf).all()
    np.testing.assert_allclose(broken[1], whole[1], rtol=1e-5)
    with torch.no_grad():
        scorer.network.item_weight[1, 1] = torch.nan
    assert (ServedScorer(scorer, 1).score(batch)["utility"] == -np.inf).all()


@pytest.mark.parametrize("name", ["rows", "items"])
def test_an_item_beyond_the_scorer_is_refused(name: str) -> None:
    """Of the history as of the candidates."""
    batch = histories(2, 2, 9) | candidates(2, 2, 4)
    batch[name][1, -1] = N_ITEMS
    for follows in (False, True):
        with pytest.raises(IndexError, match="beyond the 40"):
            ServedScorer(a_scorer(0, follows=follows), 1).score(batch)
