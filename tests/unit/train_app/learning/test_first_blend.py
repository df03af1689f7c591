"""The two weights a scorer's training begins with."""

from __future__ import annotations

import numpy as np
import pytest

from train_app.learning.ranking.first_blend import first_blend


def drawn(weights: tuple[float, float], n: int = 3_000, seed: int = 0):  # type: ignore[no-untyped-def]
    """Candidates of which users chose one by a conditional logit of these weights."""
    rng = np.random.default_rng(seed)
    scores, chances = rng.normal(size=(2, n, 20))
    usable = rng.random((n, 20)) < 0.9
    usable[:, 0] = True
    logits = np.where(usable, weights[0] * scores + weights[1] * chances, -np.inf)
    chosen = (logits + rng.gumbel(size=logits.shape)).argmax(1)
    engaged = np.arange(20) == chosen[:, None]
    return scores, chances, usable, engaged


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.6, 0.9), (2.5, -0.4)])
def test_the_weights_that_made_the_choices_are_found(weights: tuple[float, float]) -> None:
    """Within what so many choices can tell."""
    assert first_blend(*drawn(weights)) == pytest.approx(weights, abs=0.12)


def test_without_choices_retrieval_stands() -> None:
    """Nothing engaged with, or nobody: the order of retrieval is where training begins."""
    scores, chances, usable, engaged = drawn((1.0, 1.0), n=50)
    assert first_blend(scores, chances, usable, np.zeros_like(engaged)) == (1.0, 0.0)
    nothing = np.zeros((0, 20))
    assert first_blend(nothing, nothing, nothing > 0, nothing > 0) == (1.0, 0.0)


def test_a_score_that_says_the_opposite_is_not_turned_around() -> None:
    """Retrieval's order is never reversed by a fit, and what the successors say is kept."""
    score, chance = first_blend(*drawn((-1.0, 0.5)))
    assert score == 0.05
    assert 0.2 < chance < 0.8


def test_what_decides_everything_gives_finite_weights() -> None:
    """Choices that one number explains wholly have no best weight; a large one is taken or none."""
    scores, chances, usable, _ = drawn((1.0, 0.0), n=200)
    engaged = np.arange(20) == np.where(usable, chances, -np.inf).argmax(1)[:, None]
    assert np.isfinite(first_blend(scores, chances, usable, engaged)).all()
