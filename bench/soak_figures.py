"""What a soak must hold, as pure figures: slopes of memory, growth of open files, latency beside
training. It starts nothing and measures nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from statistics import median

import numpy as np

from bench.memory_slope import Sample, slope_mb_per_min
from bench.open_loop import Seen
from bench.process_watch import Look

MOST_MB_PER_MIN = 1.0
MOST_P99_RATIO = 2.0
MOST_MORE_FILES = 8
"""Open files of the last third over those of the first: connections come and go by a few."""
LEAST_SHARE = 0.5
"""A process that lived for less of the time is not judged: a slope of a start is none."""
_LEAST_LOOKS = 6


@dataclass(frozen=True, slots=True)
class ProcessGrowth:
    """How one process grew after the warm-up."""

    process: str
    mb_per_min: float
    rss_mb: float
    """In the end."""
    more_files: float
    """Median of the last third less that of the first."""


@dataclass(frozen=True, slots=True)
class Soak:
    """What a run saw."""

    minutes: float
    requests_per_s: float
    n_requests: int
    n_failed: int
    """Answered by anything but 200; those of the warm-up too."""
    n_unsent: int
    """Requests the client could not send."""
    n_swaps: int
    n_trainings: int
    """That ended or were ended by the end of the run."""
    alone_p99_ms: float
    training_p99_ms: float
    processes: tuple[ProcessGrowth, ...]

    @property
    def p99_ratio(self) -> float:
        """With a training over without."""
        return self.training_p99_ms / self.alone_p99_ms if self.alone_p99_ms else float("inf")

    def rows(self) -> list[tuple[str, str, bool | None]]:
        """What was seen, and whether it is as it must be; None where nothing is asked."""
        fastest = max(self.processes, key=lambda one: one.mb_per_min, default=None)
        widest = max(self.processes, key=lambda one: one.more_files, default=None)
        slope = fastest.mb_per_min if fastest else float("inf")
        files = widest.more_files if widest else float("inf")
        p99 = f"{self.training_p99_ms:.1f} ms beside, {self.alone_p99_ms:.1f} ms alone"
        return [
            ("load", f"{self.requests_per_s:.0f} req/s for {self.minutes:g} min",
             self.n_unsent == 0),
            ("failed requests", f"{self.n_failed} of {self.n_requests:,}", self.n_failed == 0),
            ("swaps of bundles", f"{self.n_swaps}", self.n_swaps > 0),
            ("trainings", f"{self.n_trainings}", self.n_trainings > 0),
            ("p99 beside training", f"{p99}, {self.p99_ratio:.2f} x",
             self.p99_ratio <= MOST_P99_RATIO),
            ("steepest memory", f"{slope:+.2f} MB/min, {fastest.process if fastest else 'nobody'}",
             slope < MOST_MB_PER_MIN),
            ("most new open files", f"{files:+.0f}, {widest.process if widest else 'nobody'}",
             files <= MOST_MORE_FILES),
        ]  # fmt: skip


def growth_of(
    series: Mapping[str, Sequence[Look]], warm_s: float, ended_s: float
) -> tuple[ProcessGrowth, ...]:
    """How each process grew from `warm_s` to `ended_s`, steepest first; short-lived ones not."""
    found = []
    for process, looks in series.items():
        kept = [look for look in looks if warm_s <= look.at_s <= ended_s]
        lived_s = kept[-1].at_s - kept[0].at_s if kept else 0.0
        if len(kept) < _LEAST_LOOKS or lived_s < LEAST_SHARE * (ended_s - warm_s):
            continue
        third = len(kept) // 3
        more_files = median(one.n_files for one in kept[-third:]) - median(
            one.n_files for one in kept[:third]
        )
        slope = slope_mb_per_min([Sample(one.at_s, one.rss_mb) for one in kept])
        found.append(ProcessGrowth(process, slope, kept[-1].rss_mb, float(more_files)))
    return tuple(sorted(found, key=lambda one: -one.mb_per_min))


def p99_of(seen: Seen) -> float:
    """Of what was answered, in ms; 0 of nothing."""
    answered = seen.latencies_of(HTTPStatus.OK)
    return float(np.quantile(answered, 0.99)) if len(answered) else 0.0
