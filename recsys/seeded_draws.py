"""Uniform draws that depend on a request's own seed alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX_1 = np.uint64(0xBF58_476D_1CE4_E5B9)
_MIX_2 = np.uint64(0x94D0_49BB_1331_11EB)
_DOUBLE_STEP = 2.0**-53


def uniform_draws(seeds: NDArray[np.uint64], n_draws: int) -> NDArray[np.float64]:
    """Draws in [0, 1) from each seed alone, [B, n_draws]: SplitMix64 as a counter.

    Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    counters = np.arange(1, n_draws + 1, dtype=np.uint64)
    state = seeds.astype(np.uint64)[:, None] + counters * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * _DOUBLE_STEP)
