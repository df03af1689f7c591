"""Slices of a layer: who gets which part of the users."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.experiments.layer_slices import first_gap, free_gaps


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(1, 40), st.booleans()), max_size=30))
def test_slices_never_overlap_and_a_gap_that_fits_is_found(
    steps: list[tuple[int, bool]],
) -> None:
    """Whatever comes and goes: slices stay apart and within [0, 1], and none is refused wrongly."""
    taken: list[tuple[float, float]] = []
    for percent, leaves in steps:
        share = percent / 100
        begin = first_gap(taken, share)
        if begin is None:
            assert all(size < share for _, size in free_gaps(taken))
        else:
            assert begin >= 0 and begin + share <= 1 + 1e-9
            for other, size in taken:
                assert begin + share <= other + 1e-8 or other + size <= begin + 1e-8
            taken.append((begin, share))
        if leaves and taken:
            taken.pop(len(taken) // 2)
    assert sum(size for _, size in free_gaps(taken)) == pytest.approx(
        1 - sum(size for _, size in taken), abs=1e-6
    )
