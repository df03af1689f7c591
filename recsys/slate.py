"""Scored candidates become slates: diversity, caps and exploration, with exact propensities.

Knows neither models nor the catalogue. Every draw comes from the request's own seed, so no slate
depends on its neighbours in the batch.

B requests, C candidates, K positions, D embedding width, N items that facts are known of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.kernels.slates import fill_slates
from recsys.settings import OrderingSettings
from recsys.types import NO_ROW, FloatArray, RowArray


@dataclass(frozen=True, slots=True)
class ItemFacts:
    """What a policy reads of items beside their scores."""

    vectors: FloatArray  # [N, D]
    categories: RowArray  # [N], the first category's code, -1 for none
    creators: RowArray  # [N], the creator's code, -1 for none

    @classmethod
    def nothing(cls, n_items: int) -> ItemFacts:
        """Items that are like nothing and of nobody."""
        codes = np.full(n_items, -1, np.int32)
        return cls(np.zeros((n_items, 1), np.float32), codes, codes)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.vectors.nbytes + self.categories.nbytes + self.creators.nbytes


@dataclass(frozen=True, slots=True)
class Slates:
    """The slates of a batch; positions a slate does not fill hold -1 and propensity 0."""

    picked: RowArray  # [B, K], a column of the candidates
    propensity: FloatArray  # [B, K], probability of this item here, given the items above


def order_slates(
    utility: FloatArray,
    rows: RowArray,
    facts: ItemFacts,
    k: RowArray,
    seeds: NDArray[np.uint64],
    settings: OrderingSettings,
) -> Slates:
    """Choose a slate per request, position by position, from the best-scored candidates.

    With probability 1 - exploration a position takes the item of greatest maximal marginal
    relevance, (1 - diversity) * relevance - diversity * (greatest cosine to the items above)
    (Carbonell & Goldstein, "The use of MMR, diversity-based reranking for reordering documents
    and producing summaries", SIGIR 1998); otherwise it draws from the softmax of utility over
    temperature. Both choose among items that are unused and within the caps; where the caps leave
    none, they are ignored for that position. A candidate of non-finite utility is never shown.

    Args:
        utility: [B, C]; NaN or infinite marks what must not be shown.
        rows: of the candidates in `facts`, [B, C]; -1 is padding, which is never shown either.
        facts: of every item that is a candidate.
        k: wanted slate length, [B]; a pool smaller than it is widened to it.
        seeds: one random seed per request, [B].
        settings: the policy.
    """
    shape = (len(utility), int(k.max(initial=0)))
    drawn = np.empty((len(utility), 0), np.int32)
    picked, propensity = _filled(utility, rows, facts, k, seeds, drawn, settings, shape)
    return Slates(picked, propensity.astype(np.float32))


def slate_propensities(
    utility: FloatArray,
    rows: RowArray,
    facts: ItemFacts,
    slates: RowArray,
    settings: OrderingSettings,
) -> NDArray[np.float64]:
    """The probability of each item of given slates at its position, given the items above, [B, K].

    What `order_slates` logs of the slates it draws, for slates that somebody else drew. A product
    along a slate is the slate's probability. From the first item on that the policy can not show
    there, a slate's values are 0, as they are where it names no item.

    Args:
        utility: as for `order_slates`, like the arguments not named here.
        slates: a column of the candidates per position, -1 where a slate is shorter, [B, K].
    """
    lengths = np.count_nonzero(slates >= 0, axis=1).astype(np.int32)
    seeds = np.zeros(len(slates), np.uint64)
    shape = (len(slates), slates.shape[1])
    return _filled(utility, rows, facts, lengths, seeds, slates, settings, shape)[1]


def _filled(
    utility: FloatArray,
    rows: RowArray,
    facts: ItemFacts,
    lengths: RowArray,
    seeds: NDArray[np.uint64],
    wanted: RowArray,
    settings: OrderingSettings,
    shape: tuple[int, int],
) -> tuple[RowArray, NDArray[np.float64]]:
    """Picked and propensity of the kernel, after a check of what it does not check."""
    if utility.shape != rows.shape or len({len(utility), len(lengths), len(seeds)}) != 1:
        raise ValueError(
            f"utility {utility.shape}, rows {rows.shape}, lengths {lengths.shape} and seeds "
            f"{seeds.shape} do not fit; expected [B, C], the same, [B] and [B]"
        )
    if rows.size and int(rows.max()) >= len(facts.categories):
        raise ValueError(f"row {rows.max()} is beyond the {len(facts.categories)} items of facts")
    picked, propensity = np.full(shape, NO_ROW, np.int32), np.zeros(shape)
    fill_slates(
        np.ascontiguousarray(utility, np.float32),
        np.ascontiguousarray(rows, np.int32),
        facts.vectors,
        facts.categories,
        facts.creators,
        np.ascontiguousarray(lengths, np.int32),
        np.ascontiguousarray(seeds, np.uint64),
        np.ascontiguousarray(wanted, np.int32),
        settings.pool,
        settings.diversity,
        settings.exploration,
        settings.temperature,
        settings.max_per_category,
        settings.max_per_creator,
        picked,
        propensity,
    )
    return picked, propensity
