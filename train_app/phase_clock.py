"""What each phase of a run cost: wall time and processor time, told apart by the progress label."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


def cpu_s() -> float:
    """Processor time of this process and of its ended children, in seconds."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_memory_mb() -> float:
    """The most memory this process had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0


@dataclass
class PhaseClock:
    """Passes progress on and measures; what happens between two labels counts to the earlier one.

    Args:
        report: whom progress is passed to.
    """

    report: Callable[[str, float], None]
    wall_s: Callable[[], float] = time.monotonic
    cpu_s: Callable[[], float] = cpu_s
    _spent: dict[str, tuple[float, float]] = field(default_factory=dict)
    _open: tuple[str, float, float] | None = None

    def __call__(self, label: str, share: float) -> None:
        """Progress of a phase."""
        if self._open is None or self._open[0] != label:
            self._close()
            self._open = (label, self.wall_s(), self.cpu_s())
        self.report(label, share)

    def phases(self) -> Mapping[str, dict[str, float]]:
        """Seconds of each phase so far, in the order they began."""
        self._close()
        return {
            label: {"wall_s": round(wall, 1), "cpu_s": round(cpu, 1)}
            for label, (wall, cpu) in self._spent.items()
        }

    def _close(self) -> None:
        if self._open is None:
            return
        label, wall, cpu = self._open
        now, cpu_now = self.wall_s(), self.cpu_s()
        before = self._spent.get(label, (0.0, 0.0))
        self._spent[label] = (before[0] + now - wall, before[1] + cpu_now - cpu)
        self._open = (label, now, cpu_now)


def phases_text(phases: Mapping[str, Mapping[str, float]]) -> str:
    """The phases and their sum as one line."""
    parts = [f"{label} {spent['cpu_s']:.0f} s" for label, spent in phases.items()]
    total = sum(spent["cpu_s"] for spent in phases.values())
    return f"processor time: {', '.join(parts)}; {total:.0f} s in all"
