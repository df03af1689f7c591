"""Metrics agree with trec_eval, and their intervals cover what they should."""

from __future__ import annotations

import numpy as np
import pytest
import pytrec_eval

from recsys.types import FloatArray
from train_app.evaluation import metrics
from train_app.evaluation.metrics import (
    average_precision,
    bootstrap_coverage,
    bootstrap_mean,
    coverage,
    hit_rate,
    ndcg,
    precision,
    recall,
    reciprocal_rank,
)

N_QUERIES, N_ITEMS, LENGTH = 60, 50, 30


@pytest.fixture(scope="module")
def grades() -> FloatArray:
    """Graded relevance 0..3 of every item for every query; at least one relevant each."""
    rng = np.random.default_rng(3)
    drawn = rng.choice(4, size=(N_QUERIES, N_ITEMS), p=[0.85, 0.08, 0.04, 0.03])
    drawn[np.arange(N_QUERIES), rng.integers(0, N_ITEMS, N_QUERIES)] = 2
    return drawn.astype(np.float32)


@pytest.fixture(scope="module")
def lists() -> FloatArray:
    """A ranked list of LENGTH distinct items per query, [Q, LENGTH]."""
    rng = np.random.default_rng(4)
    return np.stack([rng.permutation(N_ITEMS)[:LENGTH] for _ in range(N_QUERIES)])


@pytest.mark.parametrize("k", [5, 10, 30])
def test_metrics_agree_with_trec_eval(grades: FloatArray, lists: FloatArray, k: int) -> None:
    """An independent implementation gives the same number for every single query."""
    qrels = {
        f"q{q}": {f"d{i}": int(grade) for i, grade in enumerate(grades[q])}
        for q in range(N_QUERIES)
    }
    run = {
        f"q{q}": {f"d{i}": float(LENGTH - rank) for rank, i in enumerate(lists[q])}
        for q in range(N_QUERIES)
    }
    names = {f"{name}.{k}" for name in ("ndcg_cut", "recall", "P", "map_cut", "success")}
    reference = pytrec_eval.RelevanceEvaluator(qrels, names | {"recip_rank"}).evaluate(run)
    gains = np.take_along_axis(grades, lists, axis=1)
    n_relevant = (grades > 0).sum(axis=1)
    ours = {
        f"ndcg_cut_{k}": ndcg(gains, grades, k),
        f"recall_{k}": recall(gains, n_relevant, k),
        f"P_{k}": precision(gains, k),
        f"map_cut_{k}": average_precision(gains, n_relevant, k),
        f"success_{k}": hit_rate(gains, k),
        "recip_rank": reciprocal_rank(gains),
    }
    for name, values in ours.items():
        theirs = [reference[f"q{q}"][name] for q in range(N_QUERIES)]
        assert np.allclose(values, theirs, atol=1e-9), name


def test_exponential_gain_is_linear_gain_of_two_to_the_grade_minus_one(
    grades: FloatArray, lists: FloatArray
) -> None:
    """The two forms of gain differ only in the grade's transformation."""
    gains = np.take_along_axis(grades, lists, axis=1)
    transformed = np.exp2(grades) - 1
    expected = ndcg(np.take_along_axis(transformed, lists, axis=1), transformed, 10)
    assert np.allclose(ndcg(gains, grades, 10, gain="exponential"), expected)
    binary = (grades > 0).astype(np.float32)
    found = np.take_along_axis(binary, lists, axis=1)
    assert np.allclose(ndcg(found, binary, 10), ndcg(found, binary, 10, gain="exponential"))


def test_a_perfect_list_scores_one_and_an_empty_one_zero() -> None:
    """The ends of the scale, also for a query with no relevant item and for no list at all."""
    gains = np.array([[3, 1, 0], [0, 0, 0]], np.float32)
    ideal = np.array([[1, 3], [0, 0]], np.float32)
    assert ndcg(gains, ideal, 3).tolist() == [1.0, 0.0]
    assert recall(gains, [2, 0], 3).tolist() == [1.0, 0.0]
    assert average_precision(gains, [2, 0], 3).tolist() == [1.0, 0.0]
    nothing = np.zeros((2, 0), np.float32)
    assert hit_rate(nothing, 10).tolist() == [0.0, 0.0]
    assert reciprocal_rank(nothing).tolist() == [0.0, 0.0]
    assert ndcg(nothing, ideal, 10).tolist() == [0.0, 0.0]


def test_coverage_counts_each_shown_item_once() -> None:
    """Padding is not an item."""
    assert coverage(np.array([[0, 1, -1], [1, 2, -1]], np.int32), 6) == pytest.approx(0.5)
    assert coverage(np.zeros((0, 3), np.int32), 0) == pytest.approx(0.0)


def test_intervals_cover_the_truth_about_as_often_as_they_say() -> None:
    """Over many samples with correlated queries of one user, 95 % intervals cover 90 to 99 %."""
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(150):
        users = np.repeat(np.arange(80), 4)
        values = np.repeat(rng.normal(0.5, 0.2, 80), 4) + rng.normal(0, 0.05, 320)
        interval = bootstrap_mean(values, users, seed=trial, n_resamples=300)
        assert interval.low <= interval.mean <= interval.high
        covered += interval.low <= 0.5 <= interval.high
    assert 0.90 <= covered / 150 <= 0.99


def test_an_interval_depends_on_the_seed_only() -> None:
    """The same seed gives the same bounds, and one lone user a degenerate interval."""
    values, users = np.linspace(0, 1, 50), np.arange(50) // 2
    assert bootstrap_mean(values, users, 1) == bootstrap_mean(values, users, 1)
    assert bootstrap_mean(values, users, 1) != bootstrap_mean(values, users, 2)
    lone = bootstrap_mean(values, np.zeros(50, np.int64), 1)
    assert lone.low == pytest.approx(lone.mean) == pytest.approx(lone.high)


@pytest.mark.parametrize("cells_kept", [0, 10_000_000])
def test_kept_and_streamed_resamples_are_the_same_draws(
    cells_kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bounds are those of integer Poisson draws of the seed, in one piece or in several."""
    monkeypatch.setattr(metrics, "_CELLS_KEPT", cells_kept)
    monkeypatch.setattr(metrics, "_CELLS_AT_ONCE", 1_000)
    values = np.random.default_rng(2).random(90)
    users = np.arange(90) // 3
    times = np.random.default_rng(7).poisson(1.0, size=(400, 30))
    drawn = times @ np.full(30, 3)
    means = (times @ values.reshape(30, 3).sum(axis=1))[drawn > 0] / drawn[drawn > 0]
    for _ in range(2):
        interval = bootstrap_mean(values, users, seed=7, n_resamples=400)
        assert (interval.low, interval.high) == pytest.approx(np.percentile(means, [2.5, 97.5]))


def test_a_paired_difference_of_equal_methods_is_zero() -> None:
    """Pairing removes all variance that two methods share."""
    interval = bootstrap_mean(np.zeros(40), np.arange(40), seed=5)
    assert (interval.mean, interval.low, interval.high) == (0.0, 0.0, 0.0)


def test_the_coverage_interval_holds_its_estimate() -> None:
    """Bounds lie around the estimate and within 0..1."""
    rows = np.random.default_rng(1).integers(0, 500, size=(80, 10)).astype(np.int32)
    interval = bootstrap_coverage(rows, 500, np.arange(80), seed=0)
    assert 0 <= interval.low < interval.mean < interval.high <= 1
    assert interval.mean == coverage(rows, 500)
