"""Resident memory and open files of every process of a service, looked at again and again.

The processes are those whose environment names the service's data directory, and all below them:
the workers of Ray write their titles over their own environment.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

DATA_DIR = "FLYWHEEL__DATA_DIR"
EVERY_S = 5.0
_NAME_LENGTH = 60


@dataclass(frozen=True, slots=True)
class Look:
    """One process at a time."""

    at_s: float
    """Since the watch began."""
    rss_mb: float
    n_files: int


class ProcessWatch:
    """Looks until left; `series` may be read then."""

    def __init__(self, data_dir: Path, every_s: float = EVERY_S) -> None:
        self._data_dir = str(data_dir)
        self._every_s = every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._began_s = time.monotonic()
        self.series: dict[str, list[Look]] = {}
        """By process: its title and id, in order of time."""

    def __enter__(self) -> ProcessWatch:
        self._began_s = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            self.look()
            if self._ended.wait(self._every_s):
                return

    def look(self) -> None:
        """Look at all once; one that ends meanwhile is left out."""
        for process in service_processes(self._data_dir):
            with suppress(psutil.Error):
                at_s = time.monotonic() - self._began_s
                rss_mb = process.memory_info().rss / 1e6
                found = Look(at_s, rss_mb, process.num_fds())
                self.series.setdefault(_name(process), []).append(found)


def service_processes(data_dir: str) -> set[psutil.Process]:
    """The processes of the service of a data directory; this one and its children are none."""
    mine = psutil.Process()
    own = {mine, *mine.children(recursive=True)}
    found: set[psutil.Process] = set()
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process not in own and process.environ().get(DATA_DIR) == data_dir:
                found |= {process, *_below(process)}
    return found - own


def _below(process: psutil.Process) -> Iterator[psutil.Process]:
    with suppress(psutil.Error):
        yield from process.children(recursive=True)


def _name(process: psutil.Process) -> str:
    title = " ".join(process.cmdline()) or process.name()
    # Of a path only its end tells what it is.
    words = [word.rsplit("/", 1)[-1] for word in title.split()[:3]]
    return f"{' '.join(words)[:_NAME_LENGTH]} ({process.pid})"
