"""Trained together, retrieval and scorer learn what the page needs, or stay as they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.joint_settings import JointSettings
from recsys.scorer import load_scorer
from recsys.settings import RetrievalSettings, Settings
from recsys.two_tower import load_towers
from recsys.types import Item
from tests.untrained_models import small_settings, write_untrained_models
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.page.joint_step import train_jointly
from train_app.learning.page.train_page import (
    JointFit,
    PageCheck,
    Pair,
    churn,
    paired_gain,
)

N_ITEMS, N_USERS, N_EVENTS = 40, 120, 8
EAGER = JointSettings(
    survival=1.0, tower_rate=3e-2, scorer_rate=1e-2, epochs=8, batch_size=32, n_tail=16, page=5
)


def a_round() -> Interactions:
    """Everybody goes through the items in the same round, from where they begin."""
    rng = np.random.default_rng(1)
    begin = rng.integers(N_ITEMS, size=N_USERS)
    places = [(user, event) for event in range(N_EVENTS) for user in range(N_USERS)]
    return interactions_from_columns(
        [f"u{user}" for user, _ in places],
        [f"i{(begin[user] + event) % N_ITEMS}" for user, event in places],
        ["click"] * len(places),
        [1_700_000_000_000 + 60_000 * event + user for user, event in places],
        items=[Item(f"i{row}") for row in range(N_ITEMS)],
        lineage={},
    )


def untrained(train: Interactions, settings: Settings, folder: Path) -> Pair:
    """Towers and a scorer with random weights."""
    write_untrained_models(train, settings, folder, warm_start=None, report=lambda *_: None)
    return Pair(load_towers(folder).eval(), load_scorer(folder))


def settings_with(folder: Path, joint: JointSettings) -> Settings:
    """Small settings with this joint step."""
    sources = RetrievalSettings(
        n_shards=2, n_candidates=20, n_popular=2, n_fresh=0, n_neighbours=0, n_trending=0
    )
    settings = small_settings(folder, retrieval=sources)
    return settings.model_copy(update={"train": settings.train.model_copy(update={"joint": joint})})


def jointly(folder: Path, joint: JointSettings) -> tuple[Pair, JointFit]:
    """The untrained pair, and what the joint step makes of it."""
    train, settings = a_round(), settings_with(folder, joint)
    pair = untrained(train, settings, folder)
    ends = train.offsets[1:, None] - np.arange(4, 0, -1)
    return pair, train_jointly(train, ends.reshape(-1), pair, settings, lambda share: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, JointFit]:
    """One joint training that all look at."""
    return jointly(tmp_path_factory.mktemp("joint"), EAGER)


def test_together_they_learn_what_follows(trained: tuple[Pair, JointFit]) -> None:
    """From random weights to a page that has the next item near its head."""
    pair, fit = trained
    assert fit.pair is not pair
    assert fit.metrics["joint_gain_ndcg@10"] > 0.5
    assert fit.metrics["joint_churn"] > 0


def test_both_stages_have_moved_and_fit_each_other(trained: tuple[Pair, JointFit]) -> None:
    """The scorer that comes out reads the vectors of the towers that come out."""
    pair, fit = trained
    assert not torch.equal(fit.pair.model.item.ids, pair.model.item.ids)
    assert np.array_equal(fit.pair.scorer.vectors.numpy(), fit.pair.model.item_vectors())


def test_the_given_pair_is_left_as_it_was(tmp_path: Path) -> None:
    """What was trained before stays whole for whoever prefers it."""
    pair, fit = jointly(tmp_path, EAGER.model_copy(update={"epochs": 1}))
    again = untrained(a_round(), small_settings(tmp_path / "again"), tmp_path / "again")
    assert torch.equal(pair.model.item.ids, again.model.item.ids)
    assert fit.metrics["joint_last_churn"] > 0


def test_more_churn_than_allowed_is_refused(tmp_path: Path) -> None:
    """However much better the page, what users are used to may weigh more."""
    pair, fit = jointly(tmp_path, EAGER.model_copy(update={"max_churn": 0.01, "epochs": 2}))
    assert fit.pair is pair
    assert fit.metrics["joint_last_churn"] > 0.01


def test_a_pair_that_is_wanted_whatever_it_is_is_taken(tmp_path: Path) -> None:
    """As the ladder wants it; what the moments kept aside said of it is told all the same."""
    held = {"max_churn": 0.01, "epochs": 1, "only_if_better": False}
    pair, fit = jointly(tmp_path, EAGER.model_copy(update=held))
    assert fit.pair is not pair
    assert not torch.equal(fit.pair.model.item.ids, pair.model.item.ids)
    assert fit.metrics["joint_epochs"] == 0.0


def test_a_loss_that_is_lost_leaves_the_pair_as_it_was(tmp_path: Path) -> None:
    """No step is taken for it, and what came of the steps before does not win."""
    pair, fit = jointly(tmp_path, EAGER.model_copy(update={"tower_rate": 1e30}))
    assert fit.pair is pair
    assert fit.metrics["joint_diverged"] == 1.0


def test_with_every_switch_off_nothing_is_trained(tmp_path: Path) -> None:
    """Separately trained is separately trained."""
    pair, fit = jointly(tmp_path, JointSettings())
    assert fit.pair is pair
    assert fit.metrics == {}


def test_staying_stable_moves_retrieval_less(
    trained: tuple[Pair, JointFit], tmp_path: Path
) -> None:
    """The stability term holds on to the order that retrieval had."""
    _, held = jointly(tmp_path, EAGER.model_copy(update={"stability": 30.0}))
    assert held.metrics["joint_last_churn"] < trained[1].metrics["joint_last_churn"]


def test_the_same_seed_trains_the_same_pair(trained: tuple[Pair, JointFit], tmp_path: Path) -> None:
    """Draws and order follow from the seed."""
    _, again = jointly(tmp_path, EAGER)
    assert torch.equal(again.pair.model.item.ids, trained[1].pair.model.item.ids)


def test_gain_and_churn_of_known_checks() -> None:
    """Paired by moment; items that left the first places count."""
    one = PageCheck(np.array([1.0, 0.5, 1.0]), np.array([[1, 2], [3, 4], [5, 6]], np.int32))
    other = replace(one, ndcg=np.array([0.5, 0.5, 0.5]), top=one.top[:, ::-1] + [[0], [0], [1]])
    gain = paired_gain(one, other)
    assert gain.mean == pytest.approx(1 / 3)
    assert gain.standard_error == pytest.approx(np.std([0.5, 0.0, 0.5], ddof=1) / 3**0.5)
    assert churn(one, other) == pytest.approx(1 / 6)
