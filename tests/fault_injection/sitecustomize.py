"""Faults that no check at load time can see: on `PYTHONPATH`, named bundles' scorers fail later.

`FAULTY_SCORERS` is a JSON object of bundle id to `raises` or to seconds of delay. The thread that
loads and checks bundles meets sound stages; only who answers users does not.
`JUMPING_CLOCK` is a file with the seconds that the time of day is wrong by.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import os
import pathlib
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

HOOKED = "serve_app.residents.bundle_loading"
CHECKS = "bundle-loader"
"""Name of the thread that loads and checks."""


class FaultyStage:
    """A stage that fails whoever is not checking it."""

    def __init__(self, stage: Any, fault: str | float) -> None:
        self._stage = stage
        self._fault = fault

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def __call__(self, method: str, batch: Any) -> Any:
        if threading.current_thread().name != CHECKS:
            if isinstance(self._fault, str):
                raise ValueError(f"cannot {method}: made to fail")
            time.sleep(self._fault)
        return self._stage(method, batch)


def with_faults(load: Callable[..., Any], faults: dict[str, str | float]) -> Callable[..., Any]:
    """`recsys.stages.load_stage`, whose scorers of the named bundles are faulty."""

    def load_stage(name: str, directory: Any, manifest: Any, settings: Any) -> Any:
        stage = load(name, directory, manifest, settings)
        fault = faults.get(manifest.bundle_id)
        return stage if fault is None or name != "scorer" else FaultyStage(stage, fault)

    return load_stage


class _Hook(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Puts the faults in once the module that loads bundles is imported."""

    def __init__(self, faults: dict[str, str | float]) -> None:
        self._faults = faults
        self._spec: importlib.machinery.ModuleSpec | None = None

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != HOOKED:
            return None
        self._spec = importlib.machinery.PathFinder.find_spec(name, path)
        return importlib.machinery.ModuleSpec(
            name, self, origin=self._spec.origin if self._spec else None
        )

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        assert self._spec is not None and self._spec.loader is not None
        return self._spec.loader.create_module(self._spec)

    def exec_module(self, module: ModuleType) -> None:
        assert self._spec is not None and self._spec.loader is not None
        self._spec.loader.exec_module(module)
        vars(module)["load_stage"] = with_faults(vars(module)["load_stage"], self._faults)


if os.environ.get("FAULTY_SCORERS"):
    sys.meta_path.insert(0, _Hook(json.loads(os.environ["FAULTY_SCORERS"])))


class WrongClock:
    """The time of day as a file has it wrong; read ten times a second at most."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._right_ns = time.time_ns
        self._read_at_s = float("-inf")
        self._offset_ns = 0

    def time_ns(self) -> int:
        """In place of `time.time_ns`."""
        now_s = time.monotonic()
        if now_s - self._read_at_s > 0.1:
            self._read_at_s = now_s
            try:
                with pathlib.Path(self._path).open() as file:
                    self._offset_ns = int(float(file.read()) * 1e9)
            except (OSError, ValueError):
                pass  # it is being written, or its folder has gone
        return self._right_ns() + self._offset_ns

    def time(self) -> float:
        """In place of `time.time`."""
        return self.time_ns() / 1e9


if os.environ.get("JUMPING_CLOCK"):
    _clock = WrongClock(os.environ["JUMPING_CLOCK"])
    time.time, time.time_ns = _clock.time, _clock.time_ns
