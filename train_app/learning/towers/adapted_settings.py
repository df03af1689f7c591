"""Settings of the towers that follow from the data where nobody has set them."""

from __future__ import annotations

import math

import numpy as np

from recsys.learning_settings import TowerSettings
from recsys.settings import Settings
from train_app.examples.interactions import Interactions

_DENSE, _SPARSE = 100.0, 12.5
"""Engagements per item from which on little has to be forgotten, and below which much has to."""
_LEAST_DROPOUT, _MOST_DROPOUT = 0.2, 0.5


def adapted(settings: Settings, train: Interactions) -> Settings:
    """The settings with every value of the towers that was left open."""
    if settings.train.towers.dropout is not None:
        return settings
    towers = adapted_towers(settings.train.towers, len(train), len(np.unique(train.rows)))
    branch = settings.train.model_copy(update={"towers": towers})
    return settings.model_copy(update={"train": branch})


def adapted_towers(settings: TowerSettings, n_engagements: int, n_items: int) -> TowerSettings:
    """The same for the towers' settings.

    Args:
        n_engagements: what the towers learn from.
        n_items: items with at least one of them.
    """
    if settings.dropout is not None:
        return settings
    return settings.model_copy(update={"dropout": dropout_for(n_engagements, n_items)})


def dropout_for(n_engagements: int, n_items: int) -> float:
    """Between 0.2 where items are met often and 0.5 where they are met seldom, by the logarithm.

    A sequential model of a sparse catalogue learns its few sequences by heart: published models
    take 0.2 for MovieLens and 0.5 for sparse stores (Kang and McAuley, ICDM 2018).
    """
    per_item = n_engagements / max(n_items, 1)
    if per_item <= 0:
        return _MOST_DROPOUT
    share = math.log(_DENSE / per_item) / math.log(_DENSE / _SPARSE)
    return _LEAST_DROPOUT + (_MOST_DROPOUT - _LEAST_DROPOUT) * min(max(share, 0.0), 1.0)
