"""Which part of a layer's users is still free: pure, over the slices that are taken."""

from __future__ import annotations

from collections.abc import Iterable

TOLERANCE = 1e-9
"""Shares such as 0.1 are no binary fractions; a slice may miss its place by so much."""


def free_gaps(taken: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The free parts of [0, 1) as (begin, share), in order.

    Args:
        taken: begin and share of each slice.
    """
    gaps, end = [], 0.0
    for begin, share in sorted(taken):
        if begin - end > TOLERANCE:
            gaps.append((end, begin - end))
        end = max(end, begin + share)
    if 1.0 - end > TOLERANCE:
        gaps.append((end, 1.0 - end))
    return gaps


def first_gap(taken: Iterable[tuple[float, float]], share: float) -> float | None:
    """Where the first free part begins that a slice of this share fits into; None if none does."""
    for begin, size in free_gaps(taken):
        if size >= share - TOLERANCE:
            return max(min(begin, 1.0 - share), 0.0)
    return None
