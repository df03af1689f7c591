"""What a training that diverged says to change."""

from __future__ import annotations

from train_app.learning.divergence import scorer_divergence, tower_divergence

NAN = float("nan")


def test_a_training_from_nothing_halves_its_own_rate() -> None:
    """Towers and scorer have one each."""
    towers = str(tower_divergence(3, 0.5, 1e-4, NAN, 0.003))
    assert "set train.towers.learning_rate to 0.0015 (now 0.003) or train.precision" in towers
    scorer = str(scorer_divergence(0, NAN, 0.001))
    assert "set train.scorer.learning_rate to 0.0005 (now 0.001)" in scorer
    assert "keeps the towers" in scorer


def test_a_warm_start_halves_its_share_of_the_rate() -> None:
    """A lower rate of the models would be one of trainings from nothing too."""
    towers = str(tower_divergence(3, 0.5, 1e-4, NAN, 0.0009, 0.3))
    scorer = str(scorer_divergence(0, NAN, 0.0003, 0.3))
    for said in (towers, scorer):
        assert "set train.warm.rate_share to 0.15 (now 0.3)" in said
        assert "learning_rate to" not in said
    assert "the towers' checkpoint" in scorer
