"""The files of one running cluster under `data_dir/run`, its lock and its state.

The lock is held by a living supervisor and let go by the kernel when it dies. State, record and
Serve status are written by `cluster.local.supervisor` alone.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Phase = Literal["starting", "serving", "stopping", "failed", "stopped"]


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Paths of the files of a run."""

    directory: Path

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives; holds its pid and start time."""
        return self.directory / "supervisor.lock"

    @property
    def record(self) -> Path:
        """The processes of the run; see `cluster.local.owned_processes`."""
        return self.directory / "processes.json"

    @property
    def state(self) -> Path:
        """How far the run is."""
        return self.directory / "state.json"

    @property
    def serve_status(self) -> Path:
        """What Ray Serve last said of its applications."""
        return self.directory / "serve_status.json"

    @property
    def settings(self) -> Path:
        """The resolved settings the run was started with."""
        return self.directory / "settings.json"

    @property
    def log(self) -> Path:
        """What the supervisor and Ray wrote."""
        return self.directory / "supervisor.log"


@dataclass(frozen=True, slots=True)
class RunState:
    """How far a run is, and why it failed."""

    run_id: str
    supervisor_pid: int
    phase: Phase
    step: str
    error: str = ""
    exit_code: int = 0


def hold_lock(path: Path, patience_s: float = 1.0) -> int | None:
    """Take the lock until this process ends or closes the answered file descriptor.

    A reader that looks whether it is held takes it for an instant; hence the patience.

    Returns:
        The descriptor, or None if another process holds the lock.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                os.close(descriptor)
                return None
            time.sleep(0.02)
        else:
            return descriptor


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def write_document(path: Path, document: Mapping[str, object]) -> None:
    """Replace a JSON file at once; a reader sees the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(document))
    temporary.replace(path)


def read_document(path: Path) -> dict[str, Any] | None:
    """A JSON object from a file, or None if there is none that can be read."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def write_state(path: Path, state: RunState) -> None:
    """Record how far the run is."""
    write_document(path, asdict(state))


def read_state(path: Path) -> RunState | None:
    """The last recorded state, or None."""
    document = read_document(path)
    try:
        return None if document is None else RunState(**document)
    except TypeError:
        return None


def last_lines(path: Path, n_lines: int, n_bytes: int = 16_384) -> list[str]:
    """The last non-empty lines of a log, at most so many."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - n_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-n_lines:]
