"""What a piece of work cost: processor time, wall time and the most memory held meanwhile.

Linux only where the peak is concerned; elsewhere it is the peak of the process's whole life.
"""

from __future__ import annotations

import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one piece of work, child processes that ended in it included."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    """The most memory this process held meanwhile, in MB."""

    def as_dict(self) -> dict[str, float]:
        """As a JSON object."""
        return {
            "cpu_s": round(self.cpu_s, 3),
            "wall_s": round(self.wall_s, 3),
            "peak_mb": round(self.peak_mb, 1),
        }


class CostMeter:
    """Measures what happens inside its `with` block; `cost` is there once it has ended."""

    _open: ClassVar[list[CostMeter]] = []
    """Meters around this one: a peak is forgotten for the inner one only."""

    def __init__(self) -> None:
        self.cost = Cost(0.0, 0.0, 0.0)
        self._peak_mb = 0.0

    def __enter__(self) -> Self:
        self._see_peak()
        _forget_peak()
        self._open.append(self)
        self._began = (_cpu_s(), time.perf_counter())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        cpu_s, wall_s = self._began
        self._see_peak()
        self._open.remove(self)
        self.cost = Cost(_cpu_s() - cpu_s, time.perf_counter() - wall_s, self._peak_mb)

    def _see_peak(self) -> None:
        present = peak_mb()
        for meter in self._open:
            meter._peak_mb = max(meter._peak_mb, present)


def peak_mb() -> float:
    """The most memory this process has held since its peak was last forgotten, in MB."""
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1024**2 if sys.platform == "darwin" else peak / 1024


def _cpu_s() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _forget_peak() -> None:
    """Let the peak begin anew, where the system allows it."""
    try:
        _RESET.write_text(_RESET_PEAK)
    except OSError:
        return
