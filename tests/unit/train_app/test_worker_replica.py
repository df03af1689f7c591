"""One replica of one follower: what it imports, and what it refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.settings import Settings
from tests.fakes_event_log import MemoryEventLog
from train_app.following.worker_replica import Worker, open_follower, taken_by_others


def test_no_follower_loads_torch_or_ray() -> None:
    """A replica's memory is its own follower's."""
    program = (
        "import sys\n"
        "import train_app.following.worker_replica, train_app.lake.archiver\n"
        "import train_app.following.stream_features, train_app.following.stream_evidence\n"
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
