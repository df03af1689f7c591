"""How fast a process grows: the slope of its resident memory. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

WATCH_S = 90.0
"""The first third is warming up."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Resident memory at a time."""

    at_s: float
    rss_mb: float


def slope_mb_per_min(samples: Sequence[Sample]) -> float:
    """The median of the slopes of all pairs (Theil and Sen), which a single step does not move.

    Args:
        samples: at least two, at different times.
    """
    return 60.0 * median(
        (later.rss_mb - earlier.rss_mb) / (later.at_s - earlier.at_s)
        for earlier, later in combinations(samples, 2)
    )
