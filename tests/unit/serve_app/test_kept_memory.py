"""Memory that a batch freed is there for the next one."""

from __future__ import annotations

import resource
import subprocess
import sys

_PROGRAM = """
import resource
import numpy as np
from serve_app.kept_memory import keep_freed_memory

def faults_of_twenty():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        np.ones(1_000_000, np.float32)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

assert keep_freed_memory()
np.ones(1_000_000, np.float32)
print(faults_of_twenty())
"""


def test_arrays_of_a_batch_reuse_the_pages_of_the_last_one() -> None:
    """Twenty arrays of 4 MB touch fewer new pages than a single one has."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 4_000_000 // resource.getpagesize()
