"""Which learned baselines there are, what of each is tuned, and when one is too large to run.

Pure but for the builders it names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.types import FloatArray, RowArray
from train_app.evaluation.rivals.lenskit_scores import (
    Options,
    Pairs,
    ease,
    implicit_als,
    item_neighbours,
)

ITEM_NEIGHBOURS, IALS, EASE = "item-kNN", "iALS", "EASE"
MAX_EASE_ITEMS = 10_000
"""EASE holds three matrices of items squared in memory: 1.2 GB at this many."""
MAX_ALS_PAIRS = 30_000_000
MAX_NEIGHBOUR_WORK = 20_000_000_000
"""Pairs of items of one user, summed over users: what finding neighbours goes through."""

Scores = Callable[[Sequence[RowArray]], FloatArray]
"""Histories of item rows to a score of every item, [B, N]."""


@dataclass(frozen=True)
class Rival:
    """A baseline that learns."""

    name: str
    build: Callable[[Pairs, Options, int], Scores]
    start: Options
    """Settings that do well on many data sets; also what is used where nothing is tuned."""
    axes: tuple[tuple[str, tuple[float | int, ...]], ...]
    """Settings tried one after the other, each with the best of those before it."""
    why_not: Callable[[Pairs], str | None]
    """Why it cannot run on this data; None where it can."""


def _no_ease(pairs: Pairs) -> str | None:
    if pairs.n_known <= MAX_EASE_ITEMS:
        return None
    return f"{pairs.n_known:,} items squared do not fit; it runs up to {MAX_EASE_ITEMS:,}"


def _no_als(pairs: Pairs) -> str | None:
    if len(pairs.rows) <= MAX_ALS_PAIRS:
        return None
    return f"{len(pairs.rows):,} pairs of user and item; it runs up to {MAX_ALS_PAIRS:,}"


def _no_neighbours(pairs: Pairs) -> str | None:
    work = int((np.bincount(pairs.users).astype(np.float64) ** 2).sum())
    if work <= MAX_NEIGHBOUR_WORK:
        return None
    return f"histories hold {work:.1e} pairs of items; it runs up to {MAX_NEIGHBOUR_WORK:.0e}"


RIVALS = (
    Rival(
        ITEM_NEIGHBOURS,
        item_neighbours,
        {"neighbours": 200},
        (("neighbours", (20, 50, 100, 500, 1_000)),),
        _no_neighbours,
    ),
    Rival(
        IALS,
        implicit_als,
        {"embedding_size": 64, "weight": 4.0, "regularization": 1.0, "epochs": 10},
        (
            ("weight", (1.0, 2.0, 16.0)),
            ("regularization", (0.1, 10.0, 30.0)),
            ("embedding_size", (32, 128)),
        ),
        _no_als,
    ),
    Rival(
        EASE,
        ease,
        {"regularization": 500.0},
        (("regularization", (20.0, 100.0, 200.0, 1_000.0, 3_000.0)),),
        _no_ease,
    ),
)
