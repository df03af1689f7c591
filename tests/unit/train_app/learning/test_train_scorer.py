"""The scorer's examples, its training and its calibration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recsys.learning_settings import ScorerSettings
from recsys.settings import RetrievalSettings, Settings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Source
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking.calibration import (
    choose_blend,
    choose_trust,
    fit_sigmoid,
    ndcg_per_example,
)
from train_app.learning.ranking.first_config import action_weights
from train_app.learning.ranking.scorer_examples import (
    ScorerExamples,
    collect_examples,
    held_back_events,
    histories_before,
    kept_aside,
)
from train_app.learning.ranking.train_scorer import ScorerFit, train_scorer

N_ITEMS, DIM, N_CANDIDATES = 30, 8, 12
FAST = ScorerSettings(
    hidden_dims=(16, 8), batch_size=16, learning_rate=0.01, epochs=10, max_minutes=60
)


def slates(n: int = 240, depends_on: str = "item", seed: int = 0) -> ScorerExamples:
    """Slates whose engagement follows item parity, which retrieval does not know, or nothing."""
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.permutation(N_ITEMS)[:N_CANDIDATES] for _ in range(n)]).astype(np.int32)
    liked = rng.integers(0, N_CANDIDATES, n)
    if depends_on == "item":
        liked = np.argmax((rows % 5 == 0) + rng.random(rows.shape) * 0.1, axis=1)
    labels = np.zeros((n, N_CANDIDATES, 2), dtype=bool)
    labels[np.arange(n), liked, 0] = True
    labels[np.arange(n), liked, 1] = rows[np.arange(n), liked] < N_ITEMS // 2
    items = rng.integers(0, N_ITEMS, (n, 6)).astype(np.int32)
    return ScorerExamples(
        {
            "items": items,
            "kinds": np.full(items.shape, 2, np.uint8),
            "ages_s": np.zeros(items.shape, np.float32),
        },
        rng.normal(size=(n, DIM)).astype(np.float32),
        rows,
        np.zeros(rows.shape, np.int8),
        np.tile(np.arange(N_CANDIDATES, dtype=np.int32), (n, 1)),
        labels,
    )


def vectors() -> np.ndarray:
    """Random item vectors."""
    return np.random.default_rng(7).normal(size=(N_ITEMS, DIM)).astype(np.float32)


def fitted(examples: ScorerExamples, **settings: object) -> ScorerFit:
    """A scorer trained on `examples`."""
    return train_scorer(
        examples,
        np.arange(len(examples)) % 4 == 0,
        ("view", "like"),
        (),
        vectors(),
        np.zeros(N_ITEMS, np.float32),
        FAST.model_copy(update=settings),
        0,
        itertools.count().__next__ if "max_minutes" in settings else lambda: 0.0,
        lambda share, metrics: None,
    )


def test_the_scorer_learns_what_retrieval_does_not_know() -> None:
    """The residual is trusted and unseen slates are ordered better than by retrieval."""
    fit = fitted(slates())
    assert fit.metrics["scorer_blend"] > 0
    unseen = slates(seed=1)
    scored = fit.scorer.score(unseen.batch())
    engaged = unseen.labels[..., 0]
    plain = ndcg_per_example(scored["retrieval_scores"].astype(float), engaged).mean()
    assert ndcg_per_example(scored["utility"].astype(float), engaged).mean() > plain + 0.1


def test_where_nothing_can_be_learned_the_order_of_retrieval_stays() -> None:
    """Too few examples leave the residual out."""
    fit = fitted(slates(20))
    assert fit.metrics["scorer_blend"] == 0
    scored = fit.scorer.score(slates(10, seed=2).batch())
    np.testing.assert_array_equal(
        np.argsort(-scored["utility"], axis=1), np.argsort(-scored["retrieval_scores"], axis=1)
    )


def test_probabilities_are_calibrated() -> None:
    """On unseen slates, the mean probability of an action is near how often it happened."""
    fit = fitted(slates(400))
    unseen = slates(200, seed=3)
    found = fit.scorer.score(unseen.batch())["probabilities"]
    for action in (0, 1):
        assert found[..., action].mean() == pytest.approx(
            unseen.labels[..., action].mean(), rel=0.25
        )


def test_minutes_end_the_training_of_the_scorer() -> None:
    """A clock that runs out stops it early, and it still answers."""
    fit = fitted(slates(), epochs=1000, max_minutes=0.5)
    assert np.isfinite(fit.scorer.score(slates(4).batch())["utility"]).all()


def test_unnamed_kinds_weigh_one_and_negative_ones_minus_one() -> None:
    """A named weight wins over both."""
    kinds = ("view", "like", "hide", "report")
    found = action_weights(kinds, ("hide", "report"), {"like": 5.0, "report": -20.0})
    assert found == (1.0, 5.0, -1.0, -20.0)


def a_log() -> Interactions:
    """Ten users with twenty items each, some of them liked at once."""
    users, items, kinds, times = [], [], [], []
    for user, place in itertools.product(range(10), range(20)):
        for kind in ("view", "like") if (user + place) % 4 == 0 else ("view",):
            users.append(f"u{user}")
            items.append(f"i{(user * 3 + place) % N_ITEMS}")
            kinds.append(kind)
            times.append(place * 60_000 + (kind == "like") * 1_000)
    return interactions_from_columns(users, items, kinds, times)


def test_the_newest_items_of_each_user_are_held_back() -> None:
    """Three of twenty each, the last three they met."""
    log = a_log()
    held = held_back_events(log, np.random.default_rng(0))
    owners = log.user_of_event()[held]
    assert np.bincount(owners).tolist() == [3] * 10
    assert (log.timestamps_ms[held] >= 17 * 60_000).all()
    assert set(log.kind_ids[held].tolist()) == {0}


def test_an_example_knows_only_what_came_before_it() -> None:
    """Histories end before the event, candidates were never met, labels are what followed."""
    log = a_log()
    config = TowerConfig(log.n_items, DIM, 1, 2, 8, log.kinds, 16)
    content = np.full((log.n_items, 1), -1, np.int32)
    model = TwoTower(config, content, np.ones(log.n_items, dtype=bool)).eval()
    events = held_back_events(log, np.random.default_rng(0))
    chosen = Settings(
        retrieval=RetrievalSettings(n_candidates=12, n_popular=3, n_neighbours=2, n_trending=2)
    )
    examples = collect_examples(log, events, UserEncoder.of(model), model.item_vectors(), chosen)
    assert set(np.unique(examples.sources)) >= {Source.INDEX, Source.NEIGHBOURS}
    for example, event in enumerate(events.tolist()):
        begin = log.offsets[log.user_of_event()[event]]
        met = log.rows[begin:event]
        history = examples.history["items"][example]
        np.testing.assert_array_equal(history[history >= 0], met[-8:])
        candidates = examples.rows[example][examples.rows[example] >= 0]
        assert not set(candidates.tolist()) & set(met.tolist())
        acted = examples.rows[example][examples.labels[example].any(-1)]
        assert set(acted.tolist()) <= {int(log.rows[event])}
        if len(acted):
            followed = log.kind_ids[event : event + 2][log.rows[event : event + 2] == acted[0]]
            column = int(np.flatnonzero(examples.rows[example] == acted[0])[0])
            assert np.flatnonzero(examples.labels[example, column]).tolist() == followed.tolist()
    assert examples.labels.any()


def test_ages_are_as_of_the_event() -> None:
    """Seconds between a history event and the event that is predicted."""
    log = a_log()
    event = int(log.offsets[1]) - 1
    ages_s = histories_before(log, np.array([event]), 3)["ages_s"][0]
    expected = (log.timestamps_ms[event] - log.timestamps_ms[event - 3 : event]) / 1000
    np.testing.assert_allclose(ages_s, expected)


def test_ndcg_of_known_orders() -> None:
    """First place is 1, second 1/log2(3), outside the cut-off or nothing engaged 0."""
    estimates = np.array([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, -np.inf], [1.0, 2.0, 3.0]])
    engaged = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [1, 0, 1]], dtype=bool)
    found = ndcg_per_example(estimates, engaged, k=2)
    both = 1.0 / (1.0 + 1.0 / np.log2(3))
    np.testing.assert_allclose(found, [1.0, 1 / np.log2(3), 0.0, both])


def test_estimates_that_are_no_numbers_find_nothing() -> None:
    """Lost weights do not pass for the order that candidates came in."""
    engaged = np.array([[True, False], [False, True]])
    lost = np.full((2, 2), np.nan)
    assert ndcg_per_example(lost, engaged).tolist() == [0.0, 0.0]


def test_a_moment_stays_on_its_side_whatever_else_is_learned() -> None:
    """What an earlier training validated on is never learned from by a later one."""
    log = a_log()
    events = np.arange(len(log))
    kept = kept_aside(log, events)
    assert 0 < kept.sum() < len(log)
    later = log.select(log.timestamps_ms > np.median(log.timestamps_ms))
    names = {
        (log.user_ids[user], log.items[row].item_id, int(time_ms)): is_kept
        for user, row, time_ms, is_kept in zip(
            log.user_of_event(), log.rows, log.timestamps_ms, kept, strict=True
        )
    }
    again = kept_aside(later, np.arange(len(later)))
    for user, row, time_ms, is_kept in zip(
        later.user_of_event(), later.rows, later.timestamps_ms, again, strict=True
    ):
        assert names[later.user_ids[user], later.items[row].item_id, int(time_ms)] == is_kept


def test_a_residual_of_noise_is_not_blended_in() -> None:
    """A gain within its standard error is no gain."""
    rng = np.random.default_rng(0)
    engaged = np.zeros((300, 10), dtype=bool)
    engaged[:, 0] = True
    base = engaged * 2.0 + rng.normal(size=(300, 10))
    assert choose_blend(base, rng.normal(size=(300, 10)) * 2, engaged).share == 0.0
    assert choose_blend(base, engaged * 1.0, engaged).share == 1.0


def test_constant_outcomes_leave_the_base_rate() -> None:
    """A kind that every engagement has needs no network."""
    outcomes = np.ones(200, dtype=bool)
    assert choose_trust(6.0, np.full(200, 0.5), outcomes).share == 0.0


def test_the_sigmoid_fit_recovers_slope_and_offset() -> None:
    """On outcomes drawn from a known sigmoid; a useless estimate keeps its order."""
    rng = np.random.default_rng(0)
    estimates = rng.normal(size=20_000) * 3
    outcomes = rng.random(20_000) < 1 / (1 + np.exp(-(0.8 * estimates - 2.0)))
    slope, offset = fit_sigmoid(estimates, outcomes)
    assert slope == pytest.approx(0.8, rel=0.1)
    assert offset == pytest.approx(-2.0, rel=0.1)
    assert fit_sigmoid(estimates, ~outcomes)[0] > 0
    assert all(np.isfinite(fit_sigmoid(estimates, np.zeros(20_000, dtype=bool))))
