"""The error of a training whose loss is no number any more: where it was, and the mend."""

from __future__ import annotations

from recsys.errors import DataError


class TrainingDiverged(DataError):
    """A loss or a gradient is NaN or infinite; nothing of that step was kept.

    The checkpoints of before stand, and the same training with a lower rate goes on from them.
    """


def tower_divergence(
    step: int, epoch: float, learning_rate: float, loss: float, setting: float
) -> TrainingDiverged:
    """The towers' step whose loss or gradient is not finite.

    Args:
        learning_rate: of this step.
        setting: `train.towers.learning_rate`, the schedule's peak.
    """
    return TrainingDiverged(
        f"training the towers stopped at step {step}, epoch {epoch:.2f}: the loss is {loss} or a "
        f"gradient is not finite at a learning rate of {learning_rate:.3g}, expected finite "
        f"numbers; set train.towers.learning_rate to {setting / 2:.3g} (now {setting:.3g}) or "
        "train.precision to float32 and train again, which goes on from the last good checkpoint"
    )


def scorer_divergence(epoch: int, loss: float, setting: float) -> TrainingDiverged:
    """The scorer's step whose loss or gradient is not finite.

    Args:
        setting: `train.scorer.learning_rate`.
    """
    return TrainingDiverged(
        f"training the scorer stopped in epoch {epoch}: the loss is {loss} or a gradient is not "
        f"finite, expected finite numbers; set train.scorer.learning_rate to {setting / 2:.3g} "
        f"(now {setting:.3g}) and train again, which keeps the towers"
    )
