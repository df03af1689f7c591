"""Meters of processor time around named functions of a running graph, put in as modules load.

Each meter counts what its function used of its thread's processor time less what metered
functions it called used. The counts lie in a shared file per process, so that another process
reads them at any moment. Only the standard library: this is imported before everything else.
"""

from __future__ import annotations

import asyncio
import functools
import importlib.machinery
import inspect
import mmap
import os
import shutil
import struct
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.cost_parts import METERS, Meter

FOLDER_VARIABLE = "FLYWHEEL_BENCH_COSTS"
"""Names the folder of the counts; without it nothing is metered."""
_WORD_BYTES = 8
_THREAD_NAME_LENGTH = 15


class _Mark(threading.local):
    """Of one thread: the meters that run, and when the innermost one last went on."""

    def __init__(self) -> None:
        self.running: list[int] = []
        self.since_ns = 0


class CostCounts:
    """Nanoseconds and calls of every meter of this process.

    Args:
        folder: where the file of this process is made.
        clock_ns: processor time of the calling thread.
    """

    def __init__(
        self,
        folder: Path,
        meters: Sequence[Meter],
        clock_ns: Callable[[], int] = time.thread_time_ns,
    ) -> None:
        self._clock_ns = clock_ns
        self._n_meters = len(meters)
        self._mark = _Mark()
        n_bytes = 2 * _WORD_BYTES * len(meters)
        with (folder / f"{os.getpid()}.costs").open("w+b") as file:
            file.truncate(n_bytes)
            self._map = mmap.mmap(file.fileno(), n_bytes)
        self._words = memoryview(self._map).cast("q")

    def enter(self, place: int) -> None:
        """The meter at that place runs until `leave`; the one around it stands still."""
        mark, now_ns = self._mark, self._clock_ns()
        if mark.running:
            self._words[mark.running[-1]] += now_ns - mark.since_ns
        mark.running.append(place)
        mark.since_ns = now_ns

    def leave(self) -> None:
        """The innermost meter ends."""
        mark, now_ns = self._mark, self._clock_ns()
        self._words[mark.running.pop()] += now_ns - mark.since_ns
        mark.since_ns = now_ns

    def called(self, place: int) -> None:
        """One more call."""
        self._words[self._n_meters + place] += 1

    def metered(self, function: Callable[..., Any], place: int) -> Callable[..., Any]:
        """The function with the meter around it; of a coroutine around each of its steps."""
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def stepped(*words: Any, **named: Any) -> Any:
                self.called(place)
                return await _Steps(self, place, function(*words, **named))

            return stepped

        @functools.wraps(function)
        def whole(*words: Any, **named: Any) -> Any:
            self.called(place)
            self.enter(place)
            try:
                return function(*words, **named)
            finally:
                self.leave()

        return whole


class _Steps(Awaitable[Any]):
    """A coroutine, metered from each time it goes on until it waits again."""

    def __init__(self, counts: CostCounts, place: int, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._counts, self._place, self._coroutine = counts, place, coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        thrown: BaseException | None = None
        while True:
            self._counts.enter(self._place)
            try:
                if thrown is None:
                    waits_for = self._coroutine.send(None)
                else:
                    waits_for = self._coroutine.throw(thrown)
            except StopIteration as done:
                return done.value
            finally:
                self._counts.leave()
            try:
                yield waits_for
                thrown = None
            except (Exception, asyncio.CancelledError, GeneratorExit) as error:
                thrown = error


def metered_environment(folder: Path) -> dict[str, str]:
    """What has to be in the environment of processes that are to be metered.

    Args:
        folder: made anew for their counts.
    """
    shutil.rmtree(folder, ignore_errors=True)
    hooks = folder / "hooks"
    hooks.mkdir(parents=True)
    # Python runs a module of this name, found on its path, before anything else.
    (hooks / "sitecustomize.py").write_text(
        f"from {__name__} import {install.__name__}\n\n{install.__name__}()\n"
    )
    root = Path(__file__).parent.parent
    return {FOLDER_VARIABLE: str(folder), "PYTHONPATH": f"{hooks}{os.pathsep}{root}"}


def read_costs(folder: Path) -> dict[int, list[tuple[float, int]]]:
    """By process: microseconds and calls of every meter of `METERS`."""
    found = {}
    for path in folder.glob("*.costs"):
        data = path.read_bytes()
        words = struct.unpack(f"{len(data) // _WORD_BYTES}q", data)
        n_meters = len(words) // 2
        found[int(path.stem)] = [
            (words[place] / 1000, words[n_meters + place]) for place in range(n_meters)
        ]
    return found


def put_in(module: ModuleType, counts: CostCounts, meters: Sequence[Meter] = METERS) -> list[str]:
    """Put the meters of a module around its functions; the names of those it does not have."""
    lacking = []
    for place, meter in enumerate(meters):
        if meter.module != module.__name__:
            continue
        *owners, name = meter.function.split(".")
        owner: Any = module
        for step in owners:
            owner = getattr(owner, step, None)
        function = getattr(owner, name, None)
        if function is None:
            lacking.append(f"{meter.module}:{meter.function}")
        else:
            setattr(owner, name, counts.metered(function, place))
    return lacking


class _MeteringFinder:
    """Finds modules as the others do, and has the meters put in once one is loaded."""

    def __init__(self, counts: CostCounts, folder: Path) -> None:
        self._counts, self._folder = counts, folder
        self._modules = frozenset(meter.module for meter in METERS)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's spec, if it is to be metered; None leaves it to the other finders."""
        if name not in self._modules:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module = functools.partial(  # type: ignore[method-assign]
                    self._load, spec.loader.exec_module
                )
                return spec
        return None

    def _load(self, load: Callable[[ModuleType], None], module: ModuleType) -> None:
        load(module)
        for name in put_in(module, self._counts):
            with (self._folder / "lacking").open("a") as file:
                file.write(f"{name}\n")


def _name_threads() -> None:
    """Let the kernel know threads by the names Python gives them."""
    set_native_id = threading.Thread._set_native_id  # type: ignore[attr-defined]

    def named(thread: threading.Thread) -> None:
        set_native_id(thread)
        name = Path(f"/proc/self/task/{thread.native_id}/comm")
        name.write_text(thread.name[:_THREAD_NAME_LENGTH])

    threading.Thread._set_native_id = named  # type: ignore[attr-defined]


def install() -> None:
    """Meter what this process loads from now on, where `FOLDER_VARIABLE` names a folder."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder:
        counts = CostCounts(Path(folder), METERS)
        sys.meta_path.insert(0, _MeteringFinder(counts, Path(folder)))
        _name_threads()
