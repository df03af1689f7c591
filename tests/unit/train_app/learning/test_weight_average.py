"""The running average of weights: what it is, what a checkpoint keeps, and that looking is free."""

from __future__ import annotations

import pytest
import torch

from train_app.learning.weight_average import WeightAverage


def _steps(n: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(4, 3, generator=generator) for _ in range(n)]


def test_the_average_is_the_ramped_exponential_one() -> None:
    """Equal to the recursion written out, whose first weights fade quickly."""
    weight, expected = torch.zeros(4, 3), torch.zeros(4, 3)
    average = WeightAverage([weight], 0.9)
    for t, value in enumerate(_steps(120), start=1):
        weight.copy_(value)
        average.update()
        kept = min(0.9, (1 + t) / (10 + t))
        expected = kept * expected + (1 - kept) * value
    average.adopt()
    assert torch.allclose(weight, expected, atol=1e-6)


def test_within_the_average_is_in_place_and_afterwards_the_trained_weights_are_back() -> None:
    """A measurement of the average does not disturb the training, not even when it fails."""
    weight = torch.ones(2)
    average = WeightAverage([weight], 0.5)
    weight.mul_(3)
    average.update()
    with pytest.raises(RuntimeError), average.in_place():
        assert 1 < float(weight[0]) < 3
        raise RuntimeError
    assert weight.tolist() == [3, 3]


def test_an_average_goes_on_from_its_checkpoint() -> None:
    """Interrupted or not, the same steps give the very same average."""
    values = _steps(10)
    whole, first, second = (torch.zeros(4, 3) for _ in range(3))
    straight, before, after = (WeightAverage([w], 0.99) for w in (whole, first, second))
    for value in values:
        whole.copy_(value)
        straight.update()
    for value in values[:6]:
        first.copy_(value)
        before.update()
    after.restore({name: tensor.clone() for name, tensor in before.state().items()})
    for value in values[6:]:
        second.copy_(value)
        after.update()
    straight.adopt()
    after.adopt()
    assert torch.equal(whole, second)


def test_without_decay_the_last_weights_stay() -> None:
    """Switched off, it keeps nothing and changes nothing."""
    weight = torch.ones(2)
    average = WeightAverage([weight], 0.0)
    weight.mul_(3)
    average.update()
    average.adopt()
    assert weight.tolist() == [3, 3]
    assert set(average.state()) == {"n_steps"}
