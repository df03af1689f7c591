"""Uniform draws that depend on a request's own seed alone."""

from __future__ import annotations

import numpy as np

from recsys.kernels.compiled import FLOAT, INT, WORD, compiled

_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX_1 = np.uint64(0xBF58_476D_1CE4_E5B9)
_MIX_2 = np.uint64(0x94D0_49BB_1331_11EB)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(11))
_DOUBLE_STEP = 2.0**-53


@compiled(FLOAT, WORD, INT)
def uniform_draw(seed: np.uint64, number: int) -> float:
    """The draw in [0, 1) of this number, from 0, of a seed: SplitMix64 as a counter.

    Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    state = seed + np.uint64(number + 1) * _GOLDEN
    state = (state ^ (state >> _SHIFTS[0])) * _MIX_1
    state = (state ^ (state >> _SHIFTS[1])) * _MIX_2
    state ^= state >> _SHIFTS[2]
    return float(state >> _SHIFTS[3]) * _DOUBLE_STEP
