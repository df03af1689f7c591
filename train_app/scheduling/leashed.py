"""Runs `python -m train_app` as a process that dies with the one that started it.

`python -m train_app.scheduling.leashed PARENT VERB ...`: Linux alone can be asked for that; where
it cannot, the parent ends its child when it stops in order.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_SET_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of prctl(2)."""


def hold_leash(parent: int) -> bool:
    """Die with `parent`, or with the thread of it that started this process; False if it has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    return os.getppid() == parent


def main(words: list[str]) -> int:
    """Put the leash on, then run the rest of the command line."""
    parent, *arguments = words
    if not hold_leash(int(parent)):
        return 1
    from train_app.__main__ import main as run

    return run(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
