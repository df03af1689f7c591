"""`python -m bench.training_memory`: the memory of import and training, stage by stage.

Generates histories (users in sessions, items by Zipf), imports them into a scratch lake and trains
on it, each by the command a user would type; the memory is that of the whole process tree.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TextIO

import psutil

from bench.quality_table import machine
from bench.synthetic_history import EVENTS_PER_USER, write_history
from recsys.settings import Settings

SAMPLE_S = 0.2
_PROGRESS = re.compile(r"(?P<stage>.+?)(?: \.\.\.|: done in .+|: \d+%, .+ left)")
_REFUSED_BY_GATE = 6
"""Trained too shortly to beat anything; what it took is what is asked here."""


@dataclass(frozen=True, slots=True)
class StageMemory:
    """The most that the process tree held while a stage ran."""

    stage: str
    peak_mb: int
    seconds: float


class TreeMemory:
    """Samples the memory of a process and its descendants, told apart by stage.

    Counts every page once per process (resident set), so pages that processes share count twice.
    """

    def __init__(self, pid: int, first_stage: str) -> None:
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._peaks: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._stage = first_stage
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def enter(self, stage: str) -> None:
        """What is sampled from now on belongs to `stage`."""
        self._stage = stage

    def end(self) -> list[StageMemory]:
        """Stop; the stages in the order they began."""
        self._ended.set()
        self._thread.join()
        return [
            StageMemory(stage, peak >> 20, round(self._seconds[stage], 1))
            for stage, peak in self._peaks.items()
        ]

    def sample(self) -> None:
        """Look now."""
        stage, held = self._stage, tree_bytes(self._process)
        self._seconds[stage] = self._seconds.get(stage, 0.0) + SAMPLE_S
        self._peaks[stage] = max(self._peaks.get(stage, 0), held)

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.sample()


def tree_bytes(process: psutil.Process) -> int:
    """Resident memory of a process and its descendants, of those that still live."""
    total = 0
    with suppress(psutil.Error):
        for one in (process, *process.children(recursive=True)):
            with suppress(psutil.Error):
                total += one.memory_info().rss
    return total


def stage_of(line: str) -> str | None:
    """The stage that a line of plain progress names; None for other lines."""
    found = _PROGRESS.fullmatch(line)
    return None if found is None else found["stage"]


def measure_verb(
    verb: str, settings_path: Path, arguments: Sequence[str], told: TextIO
) -> list[StageMemory]:
    """Run one verb of the trainer to its end; the stages it went through.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "train_app", verb, *arguments, "--settings"]
    process = subprocess.Popen(
        [*command, str(settings_path)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    memory = TreeMemory(process.pid, verb)
    try:
        for line in process.stderr or ():
            print(f"  {line.rstrip()}", file=told, flush=True)
            stage = stage_of(line.rstrip())
            if stage is not None:
                memory.enter(stage)
        code = process.wait()
    finally:
        stages = memory.end()
        if process.poll() is None:
            process.terminate()
            process.wait()
    if code not in (0, _REFUSED_BY_GATE):
        raise RuntimeError(f"'{verb}' ended with {code}; see above")
    return stages


def scratch_settings(data_dir: Path, max_steps: int, max_minutes: float, threads: int) -> Settings:
    """Settings of a training that is cut short: memory does not depend on how long it learns."""
    towers = {"max_steps": max_steps, "max_minutes": max_minutes}
    train = {"towers": towers, "scorer": {"max_minutes": max_minutes}, "n_threads": threads}
    return Settings.model_validate({"data_dir": str(data_dir), "train": train})


def measure(arguments: argparse.Namespace, folder: Path, told: TextIO) -> list[StageMemory]:
    """Generate, import unless the folder has a lake already, and train."""
    settings = scratch_settings(
        folder / "var", arguments.max_steps, arguments.max_minutes, arguments.threads
    )
    settings_path = folder / "settings.json"
    settings_path.write_text(settings.model_dump_json())
    stages = []
    if not (folder / "var" / "lake").exists():
        history, items = write_history(
            folder, arguments.events // EVENTS_PER_USER, arguments.items, arguments.seed
        )
        stages += measure_verb("import", settings_path, [str(history), "--items", str(items)], told)
    return stages + measure_verb("train", settings_path, [], told)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.training_memory", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--items", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--max-steps", type=int, default=200)
    parser.add_argument("--max-minutes", type=float, default=1.0, help="of towers, and of scorer")
    parser.add_argument("--folder", type=Path, help="kept; with a lake in it, nothing is imported")
    parser.add_argument("--json", type=Path, help="write the figures as JSON")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, and print the table."""
    arguments = parse_arguments()
    started_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="training-memory-") as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        stages = measure(arguments, folder, sys.stderr)
    for one in stages:
        print(f"{one.stage:34} {one.peak_mb:7,} MB {one.seconds:7.0f} s")
    peak = max(one.peak_mb for one in stages)
    print(f"peak {peak:,} MB at {arguments.events:,} events; {time.monotonic() - started_s:.0f} s")
    if arguments.json:
        document = {
            "machine": machine(),
            "events": arguments.events,
            "peak_mb": peak,
            "stages": [asdict(one) for one in stages],
        }
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
