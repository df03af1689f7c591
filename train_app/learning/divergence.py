"""The error of a training whose loss is no number any more: where it was, and the mend."""

from __future__ import annotations

from recsys.errors import DataError


class TrainingDiverged(DataError):
    """A loss or a gradient is NaN or infinite; nothing of that step was kept.

    The checkpoints of before stand, and the same training with a lower rate goes on from them.
    """


def tower_divergence(
    step: int,
    epoch: float,
    learning_rate: float,
    loss: float,
    setting: float,
    warm_rate_share: float | None = None,
) -> TrainingDiverged:
    """The towers' step whose loss or gradient is not finite.

    Args:
        learning_rate: of this step.
        setting: the schedule's peak; without a warm start `train.towers.learning_rate`.
        warm_rate_share: `train.warm.rate_share`, which a warm start took that peak with.
    """
    mend = _lower_rate("towers", setting, warm_rate_share)
    return TrainingDiverged(
        f"training the towers stopped at step {step}, epoch {epoch:.2f}: the loss is {loss} or a "
        f"gradient is not finite at a learning rate of {learning_rate:.3g}, expected finite "
        f"numbers; set {mend} or train.precision to float32 and train again, which goes on from "
        "the last good checkpoint"
    )


def scorer_divergence(
    epoch: int, loss: float, setting: float, warm_rate_share: float | None = None
) -> TrainingDiverged:
    """The scorer's step whose loss or gradient is not finite.

    Args:
        setting: the schedule's peak; without a warm start `train.scorer.learning_rate`.
        warm_rate_share: `train.warm.rate_share`, which a warm start took that peak with.
    """
    mend = _lower_rate("scorer", setting, warm_rate_share)
    # The share is the towers' as well: with another one they are no longer what was asked for.
    kept = "keeps the towers" if warm_rate_share is None else "goes on from the towers' checkpoint"
    return TrainingDiverged(
        f"training the scorer stopped in epoch {epoch}: the loss is {loss} or a gradient is not "
        f"finite, expected finite numbers; set {mend} and train again, which {kept}"
    )


def _lower_rate(model: str, setting: float, warm_rate_share: float | None) -> str:
    """The setting that halves the rate of this way to train, and leaves that of the other."""
    name, value = f"train.{model}.learning_rate", setting
    if warm_rate_share is not None:
        name, value = "train.warm.rate_share", warm_rate_share
    return f"{name} to {value / 2:.3g} (now {value:.3g})"
