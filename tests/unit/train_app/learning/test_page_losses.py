"""What the joint losses promise, against plain enumeration."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from train_app.learning.page.page_losses import (
    arrival,
    distillation_loss,
    listwise_loss,
    similarity_loss,
    soft_rank,
    survival,
    survival_loss,
)


def a_sample(seed: int, n_moments: int = 3, n_items: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores of some items, and the column of each moment's true one."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(n_moments, n_items, generator=generator)
    return scores, torch.randint(n_items, (n_moments,), generator=generator)


def test_a_cold_soft_rank_is_the_rank() -> None:
    """With a low temperature every comparison is decided."""
    scores, target = a_sample(1)
    scores = scores.argsort(1).float()  # no ties
    rank = soft_rank(scores, target, torch.ones_like(scores), 1e-4)
    own = scores.gather(1, target[:, None])
    assert torch.allclose(rank, 1.0 + (scores > own).sum(1), atol=1e-3)


def test_an_item_that_stands_for_many_counts_as_many() -> None:
    """A drawn item's weight is how many it stands for."""
    scores = torch.tensor([[0.0, 5.0, 5.0]])
    target, weights = torch.tensor([0]), torch.tensor([[1.0, 30.0, 0.0]])
    assert soft_rank(scores, target, weights, 1e-3).item() == pytest.approx(31.0)


def test_survival_is_even_at_the_quota_and_falls_with_the_rank() -> None:
    """One half at the quota; better ranks survive more surely."""
    chances = survival(torch.tensor([1.0, 10.0, 100.0]), 10.0, 2.0).exp()
    assert chances[1].item() == pytest.approx(0.5)
    assert chances[0] > 0.95
    assert chances[2] < 0.05


def test_about_a_quota_of_items_arrives() -> None:
    """A cold arrival passes exactly the best; a catalogue within the quota passes whole."""
    scores, _ = a_sample(2)
    ones = torch.ones_like(scores)
    arrives = arrival(scores, ones, 10.5, 1e-4)
    best = scores.topk(10, dim=1).indices
    assert torch.allclose(arrives.gather(1, best), torch.ones(3, 10), atol=1e-3)
    assert ((arrives.sum(1) >= 9.5) & (arrives.sum(1) <= 11.0)).all()
    assert torch.equal(arrival(scores, ones, 40.0, 1.0), ones)


def test_what_never_arrives_displaces_nobody() -> None:
    """An item that the scorer loves and retrieval drops costs the true item nothing."""
    retrieval = torch.tensor([[3.0, 2.0, 1.0, -9.0]])
    loved = torch.tensor([[1.0, 0.0, -1.0, 8.0]])
    plain = torch.tensor([[1.0, 0.0, -1.0, -8.0]])
    target, weights = torch.tensor([0]), torch.ones(1, 4)

    def loss(estimates: torch.Tensor) -> float:
        return survival_loss(retrieval, estimates, target, weights, (3.0, 1.0), 0.05).item()

    assert loss(loved) == pytest.approx(loss(plain), abs=1e-3)


def test_both_stages_learn_from_the_survival_of_the_true_item() -> None:
    """Its scores rise, and so does what keeps a stronger rival from arriving."""
    retrieval = torch.tensor([[0.0, 0.2, 0.1, -0.3]], requires_grad=True)
    estimates = torch.tensor([[0.0, 1.0, -1.0, 0.0]], requires_grad=True)
    target, weights = torch.tensor([0]), torch.ones(1, 4)
    survival_loss(retrieval, estimates, target, weights, (2.0, 1.0)).backward()
    assert retrieval.grad is not None
    assert estimates.grad is not None
    assert retrieval.grad[0, 0] < 0
    assert estimates.grad[0, 0] < 0
    assert retrieval.grad[0, 1] > 0  # the rival
    assert estimates.grad[0, 1] > 0


def test_weights_make_a_sample_stand_for_the_catalogue() -> None:
    """Drawn items with their weights estimate the full softmax loss without bias in the sum."""
    rng = np.random.default_rng(3)
    scores = torch.from_numpy(rng.normal(size=(1, 2_000)).astype(np.float32))
    target = torch.tensor([7])
    full = listwise_loss(scores, target, torch.ones_like(scores)).item()
    drawn = rng.choice(np.delete(np.arange(2_000), 7), 400, replace=False)
    columns = torch.from_numpy(np.concatenate([[7], drawn]))
    weights = torch.full((1, 401), 1_999 / 400)
    sampled = listwise_loss(scores[:, columns], torch.tensor([0]), weights).item()
    assert sampled == pytest.approx(full, abs=0.15)


def test_distillation_is_nothing_between_equals_and_moves_the_student_alone() -> None:
    """KL is zero for equal logits up to a constant; the teacher gets no gradient."""
    scores, _ = a_sample(4)
    weights = torch.ones_like(scores)
    weights[:, -1] = 0.0
    assert distillation_loss(scores + 2.0, scores, weights).item() == pytest.approx(0.0, abs=1e-6)
    student = torch.zeros_like(scores, requires_grad=True)
    teacher = scores.clone().requires_grad_()
    loss = distillation_loss(student, teacher, weights)
    loss.backward()
    assert loss.item() > 0.1
    assert teacher.grad is None
    assert student.grad is not None
    assert torch.equal(student.grad[:, -1], torch.zeros(3))  # padding


def test_a_page_of_one_direction_is_as_similar_as_can_be() -> None:
    """1 for equal items, the mean square for orthogonal ones, 0 where the page is empty."""
    weights = torch.ones(1, 4)
    same = torch.ones(1, 4, 3)
    apart = torch.eye(4)[None]
    flat = torch.zeros(1, 4)
    assert similarity_loss(flat, same, weights).item() == pytest.approx(1.0)
    assert similarity_loss(flat, apart, weights).item() == pytest.approx(0.25)
    assert similarity_loss(flat, apart, torch.zeros(1, 4)).item() == pytest.approx(0.0)
