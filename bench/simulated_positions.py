"""Position bias in a simulated world: what a scorer learns of slates with and without their places.

The page that wrote the log promoted items for a trait that users do not care about, so what it
promoted was clicked more, being looked at more. D dimensions, N items, n requests, C candidates.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from recsys.learning_settings import ScorerSettings
from recsys.simulated.shown_in_world import clicks_on, kendall_tau
from recsys.simulated.simulated_population import WorldSettings
from recsys.simulated.simulation import World
from recsys.types import Batch, FloatArray
from train_app.learning.ranking.scorer_examples import ScorerExamples
from train_app.learning.ranking.train_scorer import ScorerFit, train_scorer
from train_app.learning.slates.scorer_slates import ShownExamples

_STILL = WorldSettings(
    n_users=300,
    n_items=300,
    n_categories=6,
    new_share=0.0,
    reluctance=4.0,
    taste=4.0,
    quality=1.0,
    novelty=0.0,
    momentum=0.0,
    repetition=0.0,
    position_bias=1.0,
)
"""Nothing moves: what is measured is the order alone."""
_TOPIC_DIM, _PROMOTION = 12, 3.0
_POOL, _SLATE, _CANDIDATES = 20, 10, 30
_LEARNING = ScorerSettings(
    hidden_dims=(32, 16), batch_size=128, learning_rate=3e-3, epochs=6, max_minutes=0
)
_KEPT_ONE_IN = 2


@dataclass(frozen=True, slots=True)
class PositionResult:
    """Kendall's tau with the true order of appeal, and the examination that was learned."""

    retrieval: float
    naive: float
    debiased: float
    examination: dict[int, tuple[float, float]]
    """By position from 1: as learned and as it is, each as a share of the first position's."""


@dataclass(frozen=True, slots=True)
class _Room:
    """A world with what models see of it: traits of items [N, D] and leanings of users [U, D]."""

    world: World
    vectors: FloatArray
    leanings: FloatArray
    promoted: NDArray[np.float64]  # [N]


def measure_positions(seed: int, n_slates: int = 6000, n_organic: int = 160) -> PositionResult:
    """Train one scorer on a log with its positions and one without; compare both with the truth."""
    rng = np.random.default_rng((seed, 11))
    room = _furnished(World(_STILL, seed), rng)
    organic, shown = _organic(room, n_organic, rng), _slates(room, n_slates, rng)
    blind = replace(shown, positions=np.full_like(shown.positions, -1))
    with_positions, without = (_fit(room, organic, one, seed) for one in (shown, blind))
    users = rng.integers(0, _STILL.n_users, 600)
    items = _met(rng, len(users), _CANDIDATES)
    asked = _moments(room, users, items, np.zeros((*items.shape, 1), np.bool_))
    truth = room.world.click_chance(users, items, np.zeros(len(users)))
    answers = [fit.scorer.score(asked.batch()) for fit in (with_positions, without)]
    orders = [answers[0]["retrieval_scores"], answers[1]["utility"], answers[0]["utility"]]
    retrieval, naive, debiased = (
        float(kendall_tau(order.astype(np.float64), truth).mean()) for order in orders
    )
    real = room.world.examination(_SLATE)
    learned = {k: with_positions.metrics[f"scorer_examination@{k}"] for k in (2, 5, 10)}
    return PositionResult(
        retrieval,
        naive,
        debiased,
        {k: (share, float(real[k - 1])) for k, share in learned.items()},
    )


def _furnished(world: World, rng: Generator) -> _Room:
    """Retrieval knows tastes by topic, roughly; not what quality and promotion are worth."""
    n_users, n_topics = world.early_taste.shape
    topics = rng.normal(size=(n_topics, _TOPIC_DIM)) / _TOPIC_DIM**0.5
    promoted = rng.normal(size=len(world.topic))
    traits = [topics[world.topic], world.early_quality[:, None], promoted[:, None]]
    leanings = np.concatenate([3.0 * world.early_taste @ topics, np.zeros((n_users, 2))], axis=1)
    vectors = np.concatenate(traits, axis=1)
    return _Room(world, vectors.astype(np.float32), leanings.astype(np.float32), promoted)


def _met(rng: Generator, n: int, n_items: int) -> NDArray[np.int64]:
    """Different items per request, [n, n_items]."""
    return np.argsort(rng.random((n, _STILL.n_items)), axis=1)[:, :n_items]


def _organic(room: _Room, n: int, rng: Generator) -> ScorerExamples:
    """What users took to unprompted, each among candidates in no order."""
    users, items = rng.integers(0, _STILL.n_users, n), _met(rng, n, _CANDIDATES)
    chances = room.world.click_chance(users, items, np.zeros(n))
    appeal = np.log(chances / (1.0 - chances)) + rng.gumbel(size=items.shape)
    labels = np.zeros((*items.shape, 1), np.bool_)
    labels[np.arange(n), np.argmax(appeal, axis=1), 0] = True
    return _moments(room, users, items, labels)


def _slates(room: _Room, n: int, rng: Generator) -> ShownExamples:
    """Slates of a page that promotes, with the clicks; those without one say nothing."""
    users, pool = rng.integers(0, _STILL.n_users, n), _met(rng, n, _POOL)
    liked = np.einsum("nd,ncd->nc", room.leanings[users], room.vectors[pool])
    page = liked + _PROMOTION * room.promoted[pool] + rng.gumbel(size=pool.shape)
    slates = np.take_along_axis(pool, np.argsort(-page, axis=1)[:, :_SLATE], axis=1)
    clicks = clicks_on(room.world, users, slates, np.zeros(n), rng)
    told = clicks.any(axis=1)
    positions = np.tile(np.arange(_SLATE, dtype=np.int32), (int(told.sum()), 1))
    return ShownExamples(
        _moments(room, users[told], slates[told], clicks[told][..., None]), positions
    )


def _moments(
    room: _Room, users: NDArray[np.int64], items: NDArray[np.int64], labels: NDArray[np.bool_]
) -> ScorerExamples:
    """Requests without a history: the order is learned from users and items alone."""
    n = len(users)
    history: Batch = {
        "items": np.full((n, 1), -1, np.int32),
        "kinds": np.zeros((n, 1), np.uint8),
        "ages_s": np.zeros((n, 1), np.float32),
    }
    return ScorerExamples(
        history,
        room.leanings[users],
        items.astype(np.int32),
        np.zeros(items.shape, np.int8),
        np.zeros(items.shape, np.int32),
        labels,
    )


def _fit(room: _Room, organic: ScorerExamples, shown: ShownExamples, seed: int) -> ScorerFit:
    return train_scorer(
        organic,
        np.arange(len(organic)) % _KEPT_ONE_IN == 0,
        ("click",),
        (),
        room.vectors,
        np.zeros(len(room.vectors), np.float32),
        _LEARNING,
        seed,
        time.monotonic,
        lambda share, metrics: None,
        shown=shown,
    )
