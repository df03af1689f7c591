"""Child processes of a failure run: started, killed, replaced, and ended with their parent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
_END_S = 60
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}


class Child:
    """A Python module as a process that reports in JSON lines and ends with its input.

    Args:
        arguments: the module and what it is given.
        log: its errors are appended to this file.
    """

    def __init__(self, arguments: Sequence[str], log: Path) -> None:
        self.report: dict[str, Any] = {}
        """The newest line."""
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", *arguments],
                cwd=ROOT,
                env={**os.environ, **_QUIET},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def tell(self, line: str) -> None:
        """Give it a line of input; one that is gone hears nothing."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()

    def kill(self) -> None:
        """SIGKILL it and see it gone."""
        self._process.kill()
        self._finish()

    def end(self) -> int:
        """Let it end by itself; its exit code.

        Raises:
            subprocess.TimeoutExpired: it did not, and was killed.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            return self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        finally:
            self._finish()

    def _finish(self) -> None:
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.report = json.loads(line)
