"""Worker replicas as plain processes: started, stopped in order, and killed."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from recsys.settings import Settings

_PROGRAM = """
import logging, sys, warnings
warnings.simplefilter("ignore")
logging.basicConfig(level="WARNING")
from pathlib import Path
from recsys.settings import Settings
from train_app.following.worker_replica import Worker

settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
worker = Worker(settings, sys.argv[2], sys.argv[3])
print("follows", flush=True)
sys.stdin.read()
worker.stop()
print(worker.progress(), flush=True)
"""


class WorkerProcesses:
    """Replicas of one worker, by name; none of them is left at the end.

    Args:
        directory: for the settings file.
    """

    def __init__(self, settings: Settings, worker: str, directory: Path) -> None:
        self._file = directory / f"{worker}-settings.json"
        self._file.write_text(settings.model_dump_json())
        self._worker = worker
        self._processes: dict[str, subprocess.Popen[str]] = {}

    def __enter__(self) -> WorkerProcesses:
        """Use as a context."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End whatever still runs."""
        for name in list(self._processes):
            self.kill(name)

    def start(self, *names: str) -> None:
        """Start replicas and return when all of them follow the log."""
        for name in names:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, str(self._file), self._worker, name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        for name in names:
            stdout = self._processes[name].stdout
            assert stdout is not None
            assert stdout.readline() == "follows\n"

    def stop(self, name: str) -> str:
        """Stop a replica in order; what it says of its progress."""
        process = self._processes.pop(name)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        return said

    def kill(self, name: str) -> None:
        """End a replica with SIGKILL."""
        process = self._processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.communicate()
