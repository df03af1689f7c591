"""Negatives of a step, and the softmax that is computed against them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train_app.learning.towers.negatives import NegativeSampler
from train_app.learning.towers.softmax_loss import shared_softmax_loss


def test_the_sampled_partition_is_unbiased() -> None:
    """Averaged over draws, corrected negatives sum to what all seen items sum to."""
    rng = np.random.default_rng(0)
    counts = np.array([0, 1, 5, 50, 500, 3, 2, 0, 7])
    weights = np.exp(rng.normal(size=9))
    sampler = NegativeSampler(counts, 4)
    sums = []
    for _ in range(4_000):
        drawn = sampler.draw(rng)
        sums.append(float((weights[drawn.rows] * np.exp(drawn.corrections)).sum()))
    expected = weights[counts > 0].sum()
    assert np.mean(sums) == pytest.approx(expected, rel=0.03)


def test_unseen_items_are_never_negatives() -> None:
    """A new item is not pushed away for want of clicks; every draw has the same shape."""
    counts = np.array([0, 3, 0, 9, 1, 1, 1, 1, 2, 4])
    sampler = NegativeSampler(counts, 3)
    for seed in range(50):
        drawn = sampler.draw(np.random.default_rng(seed))
        assert (counts[drawn.rows] > 0).all()
        assert drawn.rows.shape == drawn.corrections.shape == (3,)
        real = drawn.rows[np.isfinite(drawn.corrections)]
        assert len(np.unique(real)) == len(real)


@pytest.mark.parametrize("n_negatives", [0, 6, 100])
def test_a_small_catalogue_takes_the_full_softmax(n_negatives: int) -> None:
    """Every seen item once, without correction."""
    sampler = NegativeSampler(np.array([1, 2, 0, 3, 4, 1, 9]), n_negatives)
    drawn = sampler.draw(np.random.default_rng(0))
    assert sampler.is_full
    assert drawn.rows.tolist() == [0, 1, 3, 4, 5, 6]
    assert not drawn.corrections.any()


def test_the_fused_loss_and_its_gradients_are_those_of_cross_entropy() -> None:
    """Against the plain full softmax, with more predictions than one chunk holds."""
    torch.manual_seed(0)
    n_items, n_predictions, dim = 50, 700, 8
    vectors = torch.randn(n_items, dim, dtype=torch.float64, requires_grad=True)
    states = torch.randn(n_predictions, dim, dtype=torch.float64, requires_grad=True)
    rows = torch.randint(0, n_items, (n_predictions,))
    plain = torch.nn.functional.cross_entropy(states @ vectors.T, rows, reduction="sum")
    expected = torch.autograd.grad(plain, (states, vectors))
    every_row = torch.arange(n_items)
    fused = shared_softmax_loss(
        states, vectors[rows], vectors[every_row], torch.zeros(n_items), rows, every_row
    )
    found = torch.autograd.grad(fused, (states, vectors))
    assert fused.item() == pytest.approx(plain.item(), rel=1e-5)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-3, atol=1e-4)
