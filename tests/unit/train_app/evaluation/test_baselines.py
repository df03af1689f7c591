"""Popularity on data small enough to count by hand."""

from __future__ import annotations

import numpy as np

from train_app.evaluation.baselines import popularity, recent_since_ms
from train_app.examples.interactions import Interactions, interactions_from_columns


def some_interactions() -> Interactions:
    """Three users; `a` and `b` go together, `c` is disliked, `d` is new."""
    rows = [
        ("u1", "a", "click", 1),
        ("u1", "b", "click", 2),
        ("u2", "a", "click", 3),
        ("u2", "b", "click", 4),
        ("u2", "c", "dismiss", 5),
        ("u3", "a", "click", 6),
        ("u3", "d", "click", 9),
    ]
    users, items, kinds, times = zip(*rows, strict=True)
    return interactions_from_columns(users, items, kinds, times)


def test_popularity_counts_engagements_but_not_negative_ones() -> None:
    """A dismissal does not make an item popular."""
    assert popularity(some_interactions(), ("dismiss",)).tolist() == [3, 2, 0, 1]
    assert popularity(some_interactions(), ()).tolist() == [3, 2, 1, 1]


def test_recent_popularity_counts_from_its_moment_on() -> None:
    """Older engagements do not count."""
    assert popularity(some_interactions(), (), since_ms=4).tolist() == [1, 1, 1, 1]


def test_the_recent_window_is_the_newest_share() -> None:
    """A third of seven engagements are the newest two or three; no data begins at zero."""
    interactions = some_interactions()
    since_ms = recent_since_ms(interactions, share=1 / 3)
    assert 2 <= int((interactions.timestamps_ms >= since_ms).sum()) <= 3
    assert recent_since_ms(interactions.select(np.zeros(7, np.bool_))) == 0
