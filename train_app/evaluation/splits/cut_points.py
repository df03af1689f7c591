"""Where the time protocol cuts: one moment, or several windows that follow each other.

Pure; each window is predicted by models that know what was before it (rolling origin).
"""

from __future__ import annotations

from dataclasses import dataclass

from recsys.errors import ConfigError
from train_app.examples.interactions import Interactions
from train_app.examples.lake_examples import split_by_time


@dataclass(frozen=True, slots=True)
class Cut:
    """Models learn what was before `from_ms` and predict what is before `until_ms`."""

    from_ms: int
    until_ms: int | None
    """`None` is the end of the data."""


def cut_points(interactions: Interactions, holdout_share: float, n_cuts: int) -> list[Cut]:
    """Windows of about `holdout_share` of the engagements each, the newest last.

    Fewer than asked where engagements of equal time make two of them one.

    Raises:
        ConfigError: the windows would hold all engagements.
        DataError: all engagements have the same time.
    """
    if n_cuts * holdout_share >= 1.0:
        raise ConfigError(
            f"--cuts {n_cuts} of train.holdout_share {holdout_share:g} each leave nothing to learn "
            f"from, expected less than 1 in all; ask for fewer, or lower train.holdout_share"
        )
    begins = {split_by_time(interactions, holdout_share * n) for n in range(1, n_cuts + 1)}
    ordered = sorted(begins)
    return [Cut(begin, until) for begin, until in zip(ordered, [*ordered[1:], None], strict=True)]
