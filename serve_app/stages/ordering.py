"""Ordering: the slates of a batch, and plain score order when the stage is away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import best_columns
from recsys.ordering_overrides import NO_OVERRIDES, OVERRIDES, overrides_array
from recsys.types import NO_ROW, Batch, FloatArray, RowArray
from serve_app.stages.placement import StageClient, StageFailure, try_stage


@dataclass(frozen=True, slots=True)
class Ordered:
    """Slates of a batch as columns of its candidates."""

    picked: RowArray  # [B, K], -1 where a slate is shorter
    propensity: FloatArray  # [B, K]
    failure: StageFailure | None = None


async def order_candidates(
    ordering: StageClient,
    bundle_id: str,
    rows: RowArray,
    utility: FloatArray,
    k: RowArray,
    seeds: NDArray[np.uint64],
    timeout_s: float,
    overrides: bytes = NO_OVERRIDES,
) -> Ordered:
    """Order, or fall back to score order.

    Args:
        overrides: ordering settings put over the bundle's own, the same for the whole batch.

    Raises:
        BundleMiss: the stage does not hold the bundle.
    """
    batch: Batch = {"rows": rows, "utility": utility, "k": k, "seeds": seeds}
    if overrides:
        batch[OVERRIDES] = overrides_array(overrides)
    answer = await try_stage(ordering, "ordering", "order", bundle_id, batch, timeout_s)
    if isinstance(answer, StageFailure):
        return score_order(utility, k, answer)
    return Ordered(answer["picked"], answer["propensity"])


def score_order(utility: FloatArray, k: RowArray, failure: StageFailure | None) -> Ordered:
    """The k best by score; a policy without chance, so every propensity is 1."""
    best = best_columns(utility, int(k.max(initial=0)))
    usable = np.isfinite(utility[np.arange(len(best))[:, None], best])
    usable &= np.arange(best.shape[1]) < k[:, None]
    picked = np.where(usable, best, NO_ROW).astype(np.int32)
    return Ordered(picked, usable.astype(np.float32), failure)
