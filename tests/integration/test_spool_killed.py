"""The spool of a process that is killed while it writes and reads."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.stores.spool.spool_folder import own_spool

_KILLED = """
import sys
from pathlib import Path
from recsys.stores.spool.spool_folder import own_spool

spool = own_spool(Path(sys.argv[1]), "killed", 1 << 30)
number = int(sys.argv[2])
while True:
    spool.append([str(n).encode().ljust(300, b".") for n in range(number, number + 3)])
    number += 3
    print(number, flush=True)
    if spool.n_records > 20:
        n = len(spool.peek(5))
        spool.advance(n)
        print("passed", n, flush=True)
"""


@pytest.mark.integration
def test_a_killed_process_loses_nothing_it_acknowledged(tmp_path: Path) -> None:
    """SIGKILL at any time: every acknowledged payload that was not passed over is there."""
    acknowledged = n_passed = start = 0
    for life in range(4):
        with subprocess.Popen(
            [sys.executable, "-c", _KILLED, str(tmp_path), str(start)],
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(2 + 9 * life)]
            process.send_signal(signal.SIGKILL)
            lines += [line for line in process.stdout if line.endswith("\n")]
        told = [line.split() for line in lines]
        acknowledged = max([acknowledged, *(int(words[0]) for words in told if len(words) == 1)])
        n_passed += sum(int(words[1]) for words in told if len(words) == 2)
        start = acknowledged
    heir = own_spool(tmp_path, "heir", 1 << 30)
    found = [int(payload.rstrip(b".")) for payload in heir.peek(1_000_000)]
    heir.close()
    assert acknowledged > 30
    # The last pass of a life may have happened without its line, and so may the last append.
    assert set(range(n_passed + 5 * 4, acknowledged)) <= set(found)
    assert list(dict.fromkeys(found)) == sorted(set(found)), "the order was lost"
    assert heir.n_corrupt == 0
