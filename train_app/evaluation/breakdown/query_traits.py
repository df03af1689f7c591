"""What is known of each held-out engagement: its user's history, its item's place in training.

Segments and popularity-debiased figures are made of these; rankers never see them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.metrics import Values

HEAD_SHARE = 0.5
"""The head is the fewest items that hold this share of the training engagements."""
DEBIASED, PER_ITEM = "NDCG@10 IPS", "NDCG@10 per item"
EXPONENTS = {DEBIASED: 0.5, PER_ITEM: 1.0}
"""An engagement is seen with a probability that grows as its item's training count to this power:
1/2 is Steck's stratified recall with gamma = 1 (RecSys 2011) and Yang et al. with
gamma = 0 (RecSys 2018); 1 is Yang et al. with gamma = 1, where every item counts
alike."""


@dataclass(frozen=True)
class QueryTraits:
    """Facts of Q held-out engagements, in their order."""

    users: NDArray[np.int64]  # [Q]
    n_history: NDArray[np.int64]  # [Q] engagements of the user before it
    n_target: NDArray[np.int64]  # [Q] training engagements with its item
    in_head: NDArray[np.bool_]  # [Q] whether its item is of the head
    is_prompted: NDArray[np.bool_]  # [Q] whether it reacted to a served slate
    devices: NDArray[np.str_]  # [Q] "" where it is not known

    @classmethod
    def of(cls, held_out: HeldOut, devices: Sequence[str] | None = None) -> QueryTraits:
        """The traits of a protocol's queries."""
        data = held_out.interactions
        counts = np.bincount(data.rows[held_out.is_train], minlength=data.n_items)
        n_queries = len(held_out)
        return cls(
            users=held_out.users,
            n_history=held_out.history_ends - data.offsets[held_out.users],
            n_target=counts[held_out.targets],
            in_head=head_items(counts)[held_out.targets],
            is_prompted=data.is_prompted[held_out.positions],
            devices=np.asarray([""] * n_queries if devices is None else devices, np.str_),
        )

    @classmethod
    def pooled(cls, parts: Sequence[QueryTraits]) -> QueryTraits:
        """The queries of several cuts, one after the other."""
        names = ("users", "n_history", "n_target", "in_head", "is_prompted", "devices")
        columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return cls(**columns)

    def weights(self) -> Mapping[str, Values]:
        """Inverse propensities [Q] of each debiased figure, by the figure's name."""
        counts = np.maximum(self.n_target, 1).astype(np.float64)
        return {name: counts**-exponent for name, exponent in EXPONENTS.items()}


def head_items(counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which items are the fewest that hold half of the engagements, [N]."""
    order = np.argsort(-counts, kind="stable")
    before = np.cumsum(counts[order]) - counts[order]
    in_head = np.zeros(len(counts), np.bool_)
    in_head[order] = (before < HEAD_SHARE * counts.sum()) & (counts[order] > 0)
    return in_head
