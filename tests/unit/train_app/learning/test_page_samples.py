"""A sample of a moment stands for the whole catalogue, with the true item in it."""

from __future__ import annotations

import numpy as np

from recsys.types import NO_ROW, Source
from train_app.learning.page.page_samples import PageSamples, page_samples
from train_app.learning.ranking.scorer_examples import ScorerExamples

N_ITEMS, N_FOUND, DIM = 300, 20, 8


def some_examples(n: int = 50) -> tuple[ScorerExamples, np.ndarray, np.ndarray]:
    """Moments whose retrieval found its best items, true items anywhere, and the item vectors."""
    rng = np.random.default_rng(5)
    vectors = rng.normal(size=(N_ITEMS, DIM)).astype(np.float32)
    users = rng.normal(size=(n, DIM)).astype(np.float32)
    seen = np.stack([rng.choice(N_ITEMS, 6, replace=False) for _ in range(n)]).astype(np.int32)
    scores = users @ vectors.T
    np.put_along_axis(scores, seen.astype(np.int64), -np.inf, axis=1)
    rows = np.argsort(-scores, axis=1)[:, :N_FOUND].astype(np.int32)
    rows[:, -1] = NO_ROW
    targets = np.array([rng.choice(np.setdiff1d(np.arange(N_ITEMS), one)) for one in seen])
    targets[::2] = rows[::2, 3]
    examples = ScorerExamples(
        {
            "items": seen,
            "kinds": np.full(seen.shape, 2, np.uint8),
            "ages_s": np.ones(seen.shape, np.float32),
        },
        users,
        rows,
        np.zeros(rows.shape, np.int8),
        np.broadcast_to(np.arange(N_FOUND, dtype=np.int32), rows.shape).copy(),
        np.zeros((*rows.shape, 1), np.bool_),
    )
    return examples, targets.astype(np.int32), vectors


def a_sample(n_tail: int = 64) -> tuple[PageSamples, ScorerExamples, np.ndarray, np.ndarray]:
    """Samples of `some_examples`."""
    examples, targets, vectors = some_examples()
    made = page_samples(examples, targets, vectors, n_tail, np.random.default_rng(0))
    return made, examples, targets, vectors


def test_the_true_item_is_there_once() -> None:
    """It stands in column 0, and its place among the candidates counts no more."""
    samples, _, targets, _ = a_sample()
    assert (samples.rows[:, 0] == targets).all()
    again = (samples.rows[:, 1:] == targets[:, None]) & (samples.weights[:, 1:] > 0)
    assert not again.any()


def test_a_sample_stands_for_every_item_the_user_has_not_met() -> None:
    """Its weights add up to the catalogue without the history."""
    samples, examples, _, _ = a_sample()
    total = samples.weights.sum(1)
    expected = N_ITEMS - examples.history["items"].shape[1]
    np.testing.assert_allclose(total, expected, rtol=1e-5)


def test_what_the_user_has_met_and_padding_weigh_nothing() -> None:
    """Neither competes with the true item."""
    samples, examples, _, _ = a_sample()
    met = (samples.rows[:, :, None] == examples.history["items"][:, None, :]).any(2)
    assert not samples.weights[met].any()
    assert not samples.weights[samples.rows < 0].any()


def test_the_true_item_keeps_its_rank_and_has_one_where_it_was_missed() -> None:
    """Found: its own; missed: beyond the candidates, near the rank it has among all."""
    samples, examples, targets, vectors = a_sample(n_tail=400)
    assert (samples.ranks[::2, 0] == 3).all()
    assert (samples.sources[:, 0] == Source.INDEX).all()
    scores = examples.user_emb @ vectors.T
    np.put_along_axis(scores, examples.history["items"].astype(np.int64), -np.inf, axis=1)
    moments = np.arange(len(targets))
    true_rank = (scores > scores[moments, targets][:, None]).sum(1)
    missed = ~(examples.rows == targets[:, None]).any(1)
    assert missed.sum() > 10
    assert np.abs(samples.ranks[missed, 0] - true_rank[missed]).max() < 25


def test_the_scores_are_those_of_the_towers_that_proposed() -> None:
    """What stability holds on to."""
    samples, examples, _, vectors = a_sample()
    expected = (examples.user_emb[:, None] * vectors[np.maximum(samples.rows, 0)]).sum(2)
    np.testing.assert_allclose(samples.before, expected, rtol=1e-4, atol=1e-4)
