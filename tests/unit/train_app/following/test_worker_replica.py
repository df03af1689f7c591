"""One replica of one follower: what it imports, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from tests.fakes_event_log import MemoryEventLog
from train_app.following.worker_replica import Worker, give_way, open_follower, taken_by_others


def test_no_follower_loads_torch_or_ray() -> None:
    """A replica's memory is its own follower's."""
    program = (
        "import sys\n"
        "import train_app.following.worker_replica, train_app.lake.archiving.archiver\n"
        "import train_app.following.features.stream_features\n"
        "import train_app.following.evidence.stream_evidence\n"
        "print(sorted({'torch', 'ray', 'scann', 'kafka', 'redis'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_worker_nobody_knows_is_refused(tmp_path: Path) -> None:
    """Before anything is opened."""
    settings = Settings(data_dir=tmp_path)
    with pytest.raises(ConfigError, match="expected one of archiver, features, evidence"):
        Worker(settings, "ranker", "r1")
    with pytest.raises(ConfigError, match="no worker 'ranker'"):
        open_follower("ranker", MemoryEventLog(), settings)
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_has_taken_is_kept_in_the_log(tmp_path: Path) -> None:
    """Stores that were never written say nothing was taken: the archiver trims nothing."""
    assert taken_by_others(Settings(data_dir=tmp_path)) == [{}, {}]


@pytest.mark.parametrize(("worker", "added"), [(EVIDENCE, 3), (ARCHIVER, 3), (FEATURES, 0)])
def test_who_counts_and_archives_gives_way_to_requests(worker: str, added: int) -> None:
    """With the threads it starts afterwards; the features of the next answer do not wait."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    found: list[int] = []

    def look() -> None:
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def replica() -> None:
        give_way(worker)
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    # Of its own: a priority that was lowered cannot be raised again.
    thread = threading.Thread(target=replica)
    thread.start()
    thread.join()
    assert found == [min(before + added, 19)]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
