"""AdamW against the published rule, written out."""

from __future__ import annotations

import math

import pytest
import torch

from train_app.learning.adam import AdamW, clip_gradients


def test_steps_follow_the_published_rule() -> None:
    """One number, five steps, by hand; a parameter without gradient stays."""
    moved, still = torch.tensor([2.0]), torch.tensor([3.0])
    optimizer = AdamW([moved, still], weight_decay=0.1, betas=(0.9, 0.98))
    value, mean, square = 2.0, 0.0, 0.0
    for step in range(1, 6):
        gradient = math.sin(step)
        optimizer.clear_gradients()
        moved.grad = torch.tensor([gradient])
        optimizer.step(0.01)
        mean, square = 0.9 * mean + 0.1 * gradient, 0.98 * square + 0.02 * gradient**2
        value -= 0.01 * 0.1 * value
        value -= 0.01 * (mean / (1 - 0.9**step)) / (math.sqrt(square / (1 - 0.98**step)) + 1e-8)
        assert moved.item() == pytest.approx(value, rel=1e-5)
    assert still.item() == 3.0


def test_a_restored_optimizer_goes_on_as_the_first_would() -> None:
    """Its state is all there is."""
    first, second = torch.ones(4), torch.ones(4)
    one, other = (AdamW([p], weight_decay=0.0, betas=(0.9, 0.98)) for p in (first, second))
    first.grad = torch.arange(4.0)
    one.step(0.1)
    second.copy_(first)
    other.restore({name: tensor.clone() for name, tensor in one.state().items()})
    for parameter, optimizer in ((first, one), (second, other)):
        parameter.grad = torch.ones(4)
        optimizer.step(0.1)
    assert first.tolist() == second.tolist()


def test_gradients_are_clipped_together() -> None:
    """Their joint length is cut, their direction kept; short ones stay."""
    parameters = [torch.zeros(1), torch.zeros(1), torch.zeros(1)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0]), torch.tensor([4.0])
    clip_gradients(parameters, 10.0)
    assert parameters[1].grad.item() == 4.0
    clip_gradients(parameters, 1.0)
    assert parameters[0].grad.item() == pytest.approx(0.6)
    assert parameters[1].grad.item() == pytest.approx(0.8)
