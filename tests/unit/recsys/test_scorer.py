"""The scorer: retrieval order kept until a residual is trusted, padding sunk, files checked."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from recsys.errors import BundleCorrupt
from recsys.features import FIRST_KIND
from recsys.scorer import (
    SCORER_CONFIG_FILE,
    SCORER_FILE,
    CandidateScorer,
    item_popularity,
    load_scorer,
    save_scorer,
    wanted_items,
)
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.two_tower import ITEM_VECTORS_FILE
from recsys.types import Batch, Source

N_ITEMS, DIM, LENGTH, WIDTH = 40, 16, 25, 12


def a_scorer(blend: float = 0.0, weights: tuple[float, ...] = (1.0, -1.0)) -> CandidateScorer:
    """A scorer of two actions with random weights everywhere."""
    torch.manual_seed(3)
    config = ScorerConfig(
        n_items=N_ITEMS,
        embedding_dim=DIM,
        hidden_dims=(32, 16),
        actions=("view", "dismiss"),
        utility_weights=weights,
        score_center=0.5,
        score_spread=2.0,
        user_scale=1.0,
        vector_scale=2.0,
        blend=blend,
        slope=0.7,
        offset=-2.0,
        action_log_odds=(2.0, -3.0),
        action_trust=(0.0, 0.0),
        is_negative=(False, True),
        acted_rate=0.05,
    )
    network = ScorerNetwork(config)
    with torch.no_grad():
        for head in (network.residual_head, network.action_head):
            head.weight.add_(torch.randn(head.weight.shape))
    vectors = torch.randn(N_ITEMS, DIM)
    popularity = torch.from_numpy(item_popularity(np.arange(N_ITEMS)))
    return CandidateScorer(config, network.eval(), vectors, popularity)


def test_what_follows_a_dismissed_item_is_not_raised() -> None:
    """A kind of the scorer's that is negative, by its number; unknown kinds and padding stay."""
    items = np.array([[-1, 4, 5, 6, 7]], np.int32)
    kinds = np.array([[0, FIRST_KIND, FIRST_KIND + 1, 1, FIRST_KIND + 9]], np.uint8)
    assert wanted_items(items, kinds, (False, True)).tolist() == [[-1, 4, -1, 6, 7]]


def requests(n: int = 3) -> Batch:
    """Requests with histories of different lengths, the first one empty, and some padding."""
    rng = np.random.default_rng(1)
    items = rng.integers(0, N_ITEMS, (n, LENGTH)).astype(np.int32)
    for row in range(n):
        items[row, : LENGTH - 4 * row] = -1
    rows = np.stack([rng.permutation(N_ITEMS)[:WIDTH] for _ in range(n)]).astype(np.int32)
    rows[:, -2:] = -1
    return {
        "items": items,
        "kinds": np.where(items >= 0, rng.integers(1, 4, items.shape), 0).astype(np.uint8),
        "ages_s": np.where(items >= 0, np.arange(LENGTH)[::-1] * 500.0, 0).astype(np.float32),
        "user_emb": rng.normal(size=(n, DIM)).astype(np.float32),
        "rows": rows,
        "sources": rng.integers(0, 3, rows.shape).astype(np.int8),
        "ranks": np.tile(np.arange(WIDTH, dtype=np.int32), (n, 1)),
    }


def test_without_trust_in_the_residual_the_order_is_that_of_retrieval() -> None:
    """Blend 0: utility orders candidates as the retrieval score does."""
    scored = a_scorer(blend=0.0).score(requests())
    usable = requests()["rows"][0] >= 0
    for row in range(3):
        scores, utility = scored["retrieval_scores"][row], scored["utility"][row]
        np.testing.assert_array_equal(
            np.argsort(-scores[usable], kind="stable"), np.argsort(-utility[usable], kind="stable")
        )


def test_a_kind_users_dislike_often_does_not_turn_the_order_round() -> None:
    """However common dismissals are, what retrieval ranks first stays first."""
    scorer = a_scorer(weights=(1.0, -10.0))
    often = replace(scorer.config, action_log_odds=(-2.0, 3.0))
    scored = CandidateScorer(often, scorer.network, scorer.vectors, scorer.popularity).score(
        requests()
    )
    usable = requests()["rows"][0] >= 0
    for scores, utility in zip(scored["retrieval_scores"], scored["utility"], strict=True):
        assert utility[usable].argmax() == scores[usable].argmax()


def test_a_trusted_residual_changes_the_order() -> None:
    """Blend 1: the network has its say."""
    plain, blended = (a_scorer(blend).score(requests())["utility"] for blend in (0.0, 1.0))
    assert (np.argsort(-plain, axis=1) != np.argsort(-blended, axis=1)).any()


def test_retrieval_scores_are_exact_inner_products() -> None:
    """Whatever the source of a candidate."""
    scorer, batch = a_scorer(), requests()
    vectors = scorer.vectors.numpy()[np.maximum(batch["rows"], 0)]
    expected = np.einsum("bcd,bd->bc", vectors, batch["user_emb"])
    np.testing.assert_allclose(scorer.score(batch)["retrieval_scores"], expected, rtol=1e-4)


def test_a_request_is_scored_the_same_alone_and_in_a_batch() -> None:
    """Neighbours do not matter."""
    scorer, batch = a_scorer(blend=1.0), requests()
    together = scorer.score(batch)
    for row in range(3):
        alone = scorer.score({name: values[row : row + 1] for name, values in batch.items()})
        for name, values in alone.items():
            np.testing.assert_allclose(values[0], together[name][row], rtol=2e-4, atol=1e-6)


def test_padding_sinks_and_probabilities_are_probabilities() -> None:
    """Utility is -inf exactly at padding; probabilities lie in 0-1 and weigh into the utility."""
    batch = requests()
    scored = a_scorer(blend=1.0, weights=(2.0, -0.5)).score(batch)
    assert (np.isneginf(scored["utility"]) == (batch["rows"] < 0)).all()
    probabilities = scored["probabilities"]
    assert probabilities.shape == (3, WIDTH, 2)
    assert ((probabilities >= 0) & (probabilities <= 1)).all()
    usable = batch["rows"] >= 0
    expected = probabilities @ np.array([2.0, -0.5], dtype=np.float32)
    np.testing.assert_allclose(scored["utility"][usable], expected[usable], rtol=1e-5)


def test_a_candidate_with_a_broken_vector_sinks_alone() -> None:
    """A vector that is not finite leaves the other candidates as they were."""
    scorer, batch = a_scorer(blend=1.0), requests(1)
    before = scorer.score(batch)["utility"]
    batch["items"][:] = -1
    batch["kinds"][:] = 0
    before = scorer.score(batch)["utility"]
    scorer.vectors[batch["rows"][0, 2]] = torch.nan
    after = scorer.score(batch)["utility"]
    assert np.isneginf(after[0, 2])
    others = np.arange(WIDTH) != 2
    np.testing.assert_array_equal(before[0, others], after[0, others])


def test_no_candidates_and_no_requests_are_answered() -> None:
    """Empty in, empty out."""
    scorer, batch = a_scorer(), requests()
    none = {**batch, **{name: batch[name][:, :0] for name in ("rows", "sources", "ranks")}}
    assert scorer.score(none)["utility"].shape == (3, 0)
    assert scorer.score({name: v[:0] for name, v in batch.items()})["utility"].shape == (0, WIDTH)
    bare = {**batch, **{name: batch[name][:, :0] for name in ("items", "kinds", "ages_s")}}
    assert scorer.score(bare)["utility"].shape == (3, WIDTH)


def saved(directory: Path) -> CandidateScorer:
    """A scorer written to `directory` beside its item vectors."""
    scorer = a_scorer(blend=0.5)
    save_scorer(scorer, directory)
    save_file({"vectors": scorer.vectors}, directory / ITEM_VECTORS_FILE)
    return scorer


def test_a_saved_scorer_answers_as_before(tmp_path: Path) -> None:
    """Config, network and popularity come back."""
    scorer = saved(tmp_path)
    again = load_scorer(tmp_path)
    assert again.config == scorer.config
    expected = scorer.score(requests())
    for name, values in again.score(requests()).items():
        np.testing.assert_array_equal(values, expected[name])


@pytest.mark.parametrize("name", [SCORER_FILE, SCORER_CONFIG_FILE, ITEM_VECTORS_FILE])
def test_a_truncated_scorer_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    """Loading names the file that cannot be used."""
    saved(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BundleCorrupt, match=name):
        load_scorer(tmp_path)


def test_a_scorer_beside_vectors_of_another_bundle_is_refused(tmp_path: Path) -> None:
    """The number of items must fit."""
    scorer = saved(tmp_path)
    save_file({"vectors": scorer.vectors[:-1].contiguous()}, tmp_path / ITEM_VECTORS_FILE)
    with pytest.raises(BundleCorrupt, match="expects"):
        load_scorer(tmp_path)


def test_a_kind_the_scorer_does_not_know_is_read_as_other() -> None:
    """A kind index beyond the schema does not fail."""
    batch = requests()
    strange = {**batch, "kinds": np.where(batch["kinds"] > 0, 200, 0).astype(np.uint8)}
    other = {**batch, "kinds": np.where(batch["kinds"] > 0, 1, 0).astype(np.uint8)}
    scorer = a_scorer(blend=1.0)
    np.testing.assert_array_equal(scorer.score(strange)["utility"], scorer.score(other)["utility"])


def test_a_scorer_of_before_the_later_sources_loads_and_scores_as_it_did(tmp_path: Path) -> None:
    """Its config names no number of sources; what it read of the three stands where it stood."""
    scorer, batch = a_scorer(blend=1.0), requests()
    scored = scorer.score(batch)
    files_of(scorer, tmp_path)
    path = tmp_path / SCORER_CONFIG_FILE
    document = json.loads(path.read_text())
    assert document.pop("n_sources") == 3
    path.write_text(json.dumps(document))
    loaded = load_scorer(tmp_path)
    assert loaded.network.side_weight.shape[0] == 8
    for name, values in loaded.score(batch).items():
        np.testing.assert_array_equal(values, scored[name])
    side = loaded.inputs(batch)[0].side.numpy()
    expected = np.eye(3, dtype=np.float32)[batch["sources"]]
    np.testing.assert_array_equal(side[..., 2:5], expected)
    log_ranks = np.log1p(batch["ranks"]).astype(np.float32) - np.float32(4.0)
    np.testing.assert_array_equal(side[..., 5:8], expected * log_ranks[..., None])


def test_a_source_the_scorer_does_not_know_is_scored_as_no_source() -> None:
    """Whichever it is and at whatever rank: nothing of it reaches the network."""
    scorer, batch = a_scorer(blend=1.0), requests()
    unknown = {**batch, "sources": np.full_like(batch["sources"], Source.NEIGHBOURS)}
    assert not scorer.inputs(unknown)[0].side[..., 2:].any()
    later = {
        **batch,
        "sources": np.full_like(batch["sources"], Source.TRENDING),
        "ranks": batch["ranks"] + 7,
    }
    utilities = [scorer.score(one)["utility"] for one in (unknown, later)]
    np.testing.assert_array_equal(*utilities)
    assert (utilities[0] != scorer.score(batch)["utility"]).any()


def test_a_new_scorer_reads_every_source() -> None:
    """Two side features each."""
    config = replace(a_scorer().config, n_sources=len(Source))
    torch.manual_seed(5)
    scorer = CandidateScorer(
        config, ScorerNetwork(config), a_scorer().vectors, a_scorer().popularity
    )
    batch = requests()
    batch["sources"][:] = Source.TRENDING
    side = scorer.inputs(batch)[0].side
    assert side.shape[-1] == 2 + 2 * len(Source)
    assert side[..., 2 + Source.TRENDING].all()
    assert not side[..., 2 : 2 + Source.TRENDING].any()


def files_of(scorer: CandidateScorer, directory: Path) -> None:
    """The files that a bundle holds of a scorer."""
    save_scorer(scorer, directory)
    save_file({"vectors": scorer.vectors}, directory / ITEM_VECTORS_FILE)
