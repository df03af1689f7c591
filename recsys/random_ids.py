"""Ids that nobody else makes: the system's randomness, asked for by the page.

Asking for the 16 bytes of one id is a system call, which is a third of what a request spends on
its ids.
"""

from __future__ import annotations

import os
import threading

_N_BYTES = 16
_N_AT_ONCE = 256


class _Ids(threading.local):
    """Of a thread: ids that were drawn and not given out yet."""

    def __init__(self) -> None:
        self.left: list[str] = []


_ids = _Ids()


def random_id() -> str:
    """32 hexadecimal digits, 128 random bits."""
    left = _ids.left
    if not left:
        drawn = os.urandom(_N_BYTES * _N_AT_ONCE).hex()
        width = 2 * _N_BYTES
        left.extend(drawn[at : at + width] for at in range(0, len(drawn), width))
    return left.pop()


def _forget() -> None:
    """A child would give out the ids of its parent."""
    global _ids
    _ids = _Ids()


os.register_at_fork(after_in_child=_forget)
