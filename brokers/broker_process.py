"""A process of a broker or another store, on a leash: it dies with its starter, even by SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from os import kill
from pathlib import Path

from brokers.jars import BrokerError

# The shell is the broker's parent and waits on a pipe that only the starter holds open: when the
# starter is gone the read ends. A death signal of the kernel would follow the starting thread.
_LEASH = """
exec 3>&1
"$@" </dev/null >"$0" 2>&1 3>&- &
echo $! >&3
exec 3>&-
read -r _
kill -9 $! 2>&-
wait
"""
_EXIT_TIMEOUT_S = 30


class BrokerProcess:
    """A started Java program with its output in a file.

    Args:
        command: the program and its arguments.
        log: its output goes here; replaced.
        environment: variables beside our own.
    """

    def __init__(
        self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.log = log
        log.unlink(missing_ok=True)
        self._leash = subprocess.Popen(
            ["sh", "-c", _LEASH, str(log), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | dict(environment or {}),
        )
        assert self._leash.stdout is not None
        with self._leash.stdout as pipe:
            self.pid = int(pipe.readline())

    def is_alive(self) -> bool:
        """Whether the program still runs; a stopped one does."""
        return _state(self.pid, self._leash.pid) not in {None, "Z"}

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens to one that has ended."""
        # Its parent, the leash, has not waited for it: the pid cannot be another's yet.
        if _state(self.pid, self._leash.pid) is not None:
            kill(self.pid, number)

    def end(self) -> None:
        """Kill the program, whatever state it is in, and see it gone."""
        self.signal(signal.SIGKILL)
        if self._leash.stdin is not None and not self._leash.stdin.closed:
            self._leash.stdin.close()
        try:
            self._leash.wait(_EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired as error:
            raise BrokerError(
                f"process {self.pid} did not end within {_EXIT_TIMEOUT_S} s of SIGKILL"
            ) from error

    def output(self) -> str:
        """What it wrote since its start."""
        try:
            return self.log.read_text(errors="replace")
        except OSError:
            return ""

    def tail(self, n_lines: int = 12) -> str:
        """The last lines it wrote."""
        return "\n".join(self.output().splitlines()[-n_lines:])


def _state(pid: int, parent: int) -> str | None:
    """The letter of the process's state; None where it is gone or another's."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return fields[0] if int(fields[1]) == parent else None
