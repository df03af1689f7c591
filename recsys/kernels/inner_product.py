"""The inner product of two vectors, compiled."""

from __future__ import annotations

import numba
import numpy as np

from recsys.kernels.compiled import compiled, given
from recsys.types import FloatArray


@compiled(numba.float32, given(numba.float32, 1), given(numba.float32, 1), reorders=True)
def inner_product(one: FloatArray, other: FloatArray) -> np.float32:
    """The sum of the products of their entries, in any order."""
    total = np.float32(0.0)
    for d in range(len(one)):
        total += one[d] * other[d]
    return total
