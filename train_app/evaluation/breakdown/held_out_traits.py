"""The traits of lists by what the training part knew of the items; nothing of targets."""

from __future__ import annotations

import numpy as np

from recsys.list_traits import ListTraits
from train_app.evaluation.evaluation_protocols import HeldOut


def held_out_traits(held_out: HeldOut) -> ListTraits:
    """By the catalogue's categories and the share of training users who engaged with each item."""
    data = held_out.interactions
    users = data.user_of_event()[held_out.is_train]
    pairs = np.unique(users * data.n_items + data.rows[held_out.is_train])
    n_engaged = np.bincount(pairs % max(1, data.n_items), minlength=data.n_items)
    return ListTraits.of([item.categories for item in data.items], n_engaged, len(np.unique(users)))
