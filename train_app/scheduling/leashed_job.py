"""A verb of `python -m train_app` in a process of its own, of low priority and with few threads.

Knows processes and their files; not when one is due. The thread that starts it must outlive it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recsys.settings import Settings

_END_WITHIN_S = 10.0
_TAIL_BYTES = 4_000


class LeashedJob:
    """One run of a verb.

    Args:
        folder: for its settings, its result and what it said; written by this job alone.
        verb: with its options.
        module: what runs; tests put another in its place.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        verb: Sequence[str],
        module: str = "train_app.scheduling.leashed",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.verb = verb[0]
        self._result, self._said = folder / "result.json", folder / "said.log"
        n_threads = settings.schedule.n_threads
        train = settings.train.model_copy(update={"n_threads": n_threads})
        settings_file = folder / "settings.json"
        settings_file.touch(mode=0o600)  # a store's URL may hold a password
        settings_file.write_text(settings.model_copy(update={"train": train}).model_dump_json())
        command = [sys.executable, "-m", module, str(os.getpid()), *verb]
        command += ["--settings", str(settings_file), "--json"]
        bounds = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(n_threads))
        with self._result.open("wb") as result, self._said.open("wb") as said:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=result,
                stderr=said,
                env={**os.environ, **bounds, "OMP_WAIT_POLICY": "PASSIVE"},
            )
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid, settings.train.nice)

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def exit_code(self) -> int | None:
        """How it ended, below 0 by a signal; `None` while it runs."""
        return self._process.poll()

    def document(self) -> Mapping[str, Any]:
        """The JSON document it printed; empty where there is none."""
        try:
            document = json.loads(self._result.read_bytes())
        except (OSError, ValueError):
            return {}
        return document if isinstance(document, dict) else {}

    def last_line(self) -> str:
        """The last thing it said."""
        try:
            said = self._said.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
        except OSError:
            return ""
        return next((line for line in reversed(said.splitlines()) if line.strip()), "")

    def end(self) -> None:
        """End it if it runs; a training goes on from its checkpoint when it is started again."""
        if self._process.poll() is not None:
            return
        self._process.terminate()
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
