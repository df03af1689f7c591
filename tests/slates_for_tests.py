"""Slates of candidates that bring their own facts along, which no catalogue has to hold."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.settings import OrderingSettings
from recsys.slate import ItemFacts, Slates, order_slates, slate_propensities
from recsys.types import FloatArray, RowArray


def order_candidates(
    utility: FloatArray,
    vectors: FloatArray | None,
    categories: RowArray,
    creators: RowArray,
    k: RowArray,
    seeds: NDArray[np.uint64],
    policy: OrderingSettings,
) -> Slates:
    """`order_slates` of candidates with vectors [B, C, D] and codes [B, C]; None: like nothing."""
    rows, facts = _own_facts(vectors, categories, creators)
    return order_slates(utility, rows, facts, k, seeds, policy)


def candidate_propensities(
    utility: FloatArray,
    vectors: FloatArray | None,
    categories: RowArray,
    creators: RowArray,
    slates: RowArray,
    policy: OrderingSettings,
) -> NDArray[np.float64]:
    """`slate_propensities` of the same."""
    rows, facts = _own_facts(vectors, categories, creators)
    return slate_propensities(utility, rows, facts, slates, policy)


def _own_facts(
    vectors: FloatArray | None, categories: RowArray, creators: RowArray
) -> tuple[RowArray, ItemFacts]:
    rows = np.arange(categories.size, dtype=np.int32).reshape(categories.shape)
    if vectors is None:
        vectors = np.zeros((*categories.shape, 1), np.float32)
    flat = np.ascontiguousarray(vectors, np.float32).reshape(categories.size, vectors.shape[2])
    return rows, ItemFacts(flat, categories.ravel(), creators.ravel())
