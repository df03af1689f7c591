"""What may be counted without knowing what the scorer is to predict."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from train_app.examples.interactions import Interactions


def label_free_counts(train: Interactions, is_free: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Engagements of each item, [N], of those that are free of labels."""
    return np.bincount(train.rows[is_free], minlength=train.n_items).astype(np.int64)


def label_free(train: Interactions, held_back: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[M] The engagements but those that label an example of the scorer.

    What a user does with an item from the event on that was held back is a label, also where it
    came later: a like that follows a view.

    Args:
        held_back: [E] the events that make the scorer's examples.
    """
    pair = train.user_of_event() * train.n_items + train.rows
    held = np.sort(held_back)
    pairs, first = np.unique(pair[held], return_index=True)
    begins = np.full(len(train), len(train), np.int64)
    if len(pairs):
        place = np.minimum(np.searchsorted(pairs, pair), len(pairs) - 1)
        is_labelled = pairs[place] == pair
        begins[is_labelled] = held[first][place[is_labelled]]
    return np.asarray(np.arange(len(train)) < begins)
