"""Who changes what runs, and when: what the history is signed with."""

from __future__ import annotations

import getpass
import os
import socket
import time


def who() -> str:
    """The user at this machine, and the process, unlike any other's."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}:{os.getpid()}"


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000
