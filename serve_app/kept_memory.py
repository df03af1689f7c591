"""Keeps what a process frees for its next batch instead of giving it back to the kernel."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of glibc's `mallopt`."""
LARGEST_KEPT_BYTES = 32 * 1024 * 1024
"""glibc takes no more; arrays beyond it are mapped and unmapped each time."""


def keep_freed_memory() -> bool:
    """Let arrays of a batch reuse the pages of the last one; False where the C library cannot.

    By default glibc maps every array above 128 KB anew, and the kernel clears its pages again:
    on batches of 64 that is a third of what scoring costs.
    """
    try:
        set_option = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    options = (_MMAP_THRESHOLD, LARGEST_KEPT_BYTES), (_TRIM_THRESHOLD, 2 * LARGEST_KEPT_BYTES)
    return all([set_option(name, n_bytes) == 1 for name, n_bytes in options])
