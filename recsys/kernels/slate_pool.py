"""The candidates that a slate is chosen from, and what the policy reads of them, compiled.

P is the size of a request's pool, the rest as in `recsys.slate`; "place" is one of the pool.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import FLOAT, INT, NOTHING, compiled, given, written
from recsys.kernels.inner_product import inner_product
from recsys.types import FloatArray, RowArray

Values: TypeAlias = NDArray[np.float64]
Places: TypeAlias = NDArray[np.int64]


@compiled(INT, given(numba.float32, 1), given(numba.int32, 1), INT, written(numba.int64, 1))
def fill_pool(utility: FloatArray, rows: RowArray, size: int, pool: Places) -> int:
    """The columns of the greatest finite utilities, best first, equal ones by column; how many."""
    usable = np.empty(len(utility), np.int64)
    n_usable = 0
    for column in range(len(utility)):
        if rows[column] >= 0 and math.isfinite(utility[column]):
            usable[n_usable] = column
            n_usable += 1
    order = np.argsort(-utility[usable[:n_usable]], kind="mergesort")
    n_pool = min(size, n_usable)
    for place in range(n_pool):
        pool[place] = usable[order[place]]
    return n_pool


@compiled(
    NOTHING,
    given(numba.float32, 2),
    given(numba.int32, 1),
    given(numba.int64, 1),
    written(numba.float32, 2),
)
def fill_directions(
    vectors: FloatArray, rows: RowArray, pool: Places, directions: FloatArray
) -> None:
    """The pool's vectors at length 1, [P, D]; one without direction becomes 0, like nothing."""
    for place in range(len(directions)):
        vector = vectors[rows[pool[place]]]
        norm = math.sqrt(inner_product(vector, vector))
        if math.isfinite(norm) and norm > 0.0:
            for d in range(len(vector)):
                directions[place, d] = vector[d] / norm
        else:
            directions[place, :] = 0.0


@compiled(
    NOTHING,
    given(numba.float32, 1),
    given(numba.int64, 1),
    FLOAT,
    FLOAT,
    written(numba.float64, 1),
    written(numba.float64, 1),
)
def fill_worth(
    utility: FloatArray,
    pool: Places,
    temperature: float,
    weight: float,
    logits: Values,
    worth: Values,
) -> None:
    """Utility over temperature, 0 for the best, and utility scaled to 0..`weight` over the pool."""
    high = np.float64(utility[pool[0]])
    low = np.float64(utility[pool[len(logits) - 1]])
    spread = high - low if high > low else 1.0
    for place in range(len(logits)):
        score = np.float64(utility[pool[place]])  # float() would leave it at 32 bits
        logits[place] = (score - high) / temperature
        worth[place] = weight * ((score - low) / spread)
