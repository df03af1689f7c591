"""What the judge takes engagements to be worth is what the scorer is trained to give."""

from __future__ import annotations

from cluster.rollouts.driving.controller_loop import kind_meanings
from recsys.settings import Settings


def test_weights_and_negative_kinds_are_those_of_the_settings() -> None:
    """A kind without a weight of its own weighs 1, a negative one -1."""
    settings = Settings.model_validate(
        {
            "events": {"negative_kinds": ["skip"]},
            "train": {"scorer": {"utility_weights": {"purchase": 5.0}}},
        }
    )
    kinds = kind_meanings(settings)
    assert [kinds.weight(kind) for kind in ("purchase", "like", "skip")] == [5.0, 1.0, -1.0]
    assert kinds.negative == ("skip",)
    assert kind_meanings(Settings()).weights is None
