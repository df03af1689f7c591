"""What an explanation says moved an item, told by its propensity and its policy."""

from __future__ import annotations

import pytest

from recsys.settings import OrderingSettings
from serve_app.explanations import _mover


@pytest.mark.parametrize(
    ("exploration", "diversity", "propensity", "n_better_left", "expected"),
    [
        (0.05, 0.2, 0.01, 3, "exploration"),
        (0.05, 0.2, 0.96, 3, "diversity"),
        (0.05, 0.2, 0.96, 0, None),
        (0.05, 0.0, 0.96, 3, "exploration"),
        (0.0, 0.2, 1.0, 3, "diversity"),
        (1.0, 0.2, 0.3, 3, "exploration"),
        (1.0, 0.2, 0.3, 0, None),
        (0.99, 0.2, 0.3, 3, "exploration"),
        (0.6, 0.2, 0.41, 3, "diversity"),
    ],
)
def test_what_moved_an_item_is_the_likelier_of_what_could_have(
    exploration: float,
    diversity: float,
    propensity: float,
    n_better_left: int,
    expected: str | None,
) -> None:
    """Where slates are drawn at random nothing is said to be moved for diversity."""
    policy = OrderingSettings(exploration=exploration, diversity=diversity)
    assert _mover(n_better_left, propensity, policy) == expected
