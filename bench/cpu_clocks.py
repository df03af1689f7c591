"""CPU time and time in line for a processor of every thread of some processes, from Linux's /proc.

Knows nothing of load, samples or what a process is for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class ThreadClock:
    """One thread; the times run since it began, or from one reading to the next."""

    pid: int
    thread_id: int
    name: str
    """As the kernel has it: at most 15 characters, often the process's own."""
    cpu_us: float
    waited_us: float
    """Ready to run while other threads had the processors."""


def read_clocks(pids: Iterable[int], proc: Path = PROC) -> dict[int, ThreadClock]:
    """The clocks of all threads of the processes, by thread id; what has ended is left out."""
    found = {}
    for pid in pids:
        try:
            threads = list((proc / str(pid) / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            try:
                cpu_ns, waited_ns, _ = (thread / "schedstat").read_text().split()
                name = (thread / "comm").read_text().strip()
            except (OSError, ValueError):
                continue
            clock = ThreadClock(
                pid, int(thread.name), name, int(cpu_ns) / 1000, int(waited_ns) / 1000
            )
            found[clock.thread_id] = clock
    return found


def elapsed(
    before: Mapping[int, ThreadClock], after: Mapping[int, ThreadClock]
) -> list[ThreadClock]:
    """What every thread of the second reading used since the first; a new one from its begin."""
    spent = []
    for thread_id, now in after.items():
        then = before.get(thread_id)
        known = then is not None and then.pid == now.pid
        cpu_us = now.cpu_us - (then.cpu_us if then is not None and known else 0.0)
        waited_us = now.waited_us - (then.waited_us if then is not None and known else 0.0)
        spent.append(ThreadClock(now.pid, thread_id, now.name, cpu_us, waited_us))
    return spent


def command_line(pid: int, proc: Path = PROC) -> str:
    """The words a process was started with, or what it calls itself; empty where it has ended."""
    try:
        words = (proc / str(pid) / "cmdline").read_bytes()
    except OSError:
        return ""
    return words.replace(b"\0", b" ").decode(errors="replace").strip()
