"""The log follower, killed at random: the feature store is the same as without a fault."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.settings import FeatureSettings, Settings
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import SqliteEventLog
from tests.feature_events import a_random_event
from train_app.following.features.stream_features import FeatureStream

N_EVENTS = 600

_FOLLOWER = """
import sys
from pathlib import Path
from recsys.stores.log.event_log import SqliteEventLog
from recsys.settings import Settings
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from train_app.following.features.stream_features import FeatureStream

settings = Settings.model_validate_json(sys.argv[3])
log = SqliteEventLog(Path(sys.argv[1]), settings.events.n_partitions)
writer = SqliteFeatureWriter(Path(sys.argv[2]))
stream = FeatureStream(log, writer, settings, max_records=8)
partitions = [int(p) for p in sys.argv[4].split(",")]
print("started", flush=True)
while n := stream.run_once(partitions):
    print(n, flush=True)
sys.stdin.read()
"""


def small_settings(directory: Path) -> Settings:
    """Limits that a few hundred events meet."""
    features = FeatureSettings(history_limit=20, popular_limit=10, pair_days=2)
    return Settings(data_dir=directory, features=features)


def a_log(directory: Path) -> SqliteEventLog:
    """A log of random events, late ones and forgotten users among them."""
    log = SqliteEventLog(directory / "log.sqlite", small_settings(directory).events.n_partitions)
    rng = random.Random(7)
    log.append([a_random_event(n, rng) for n in range(N_EVENTS)])
    return log


def a_follower(
    directory: Path, partitions: str, stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[str]:
    """A process that follows these partitions until nothing is new, and ends with its input."""
    arguments = [str(directory / "log.sqlite"), str(directory / "f")]
    settings = small_settings(directory).model_dump_json()
    return subprocess.Popen(
        [sys.executable, "-c", _FOLLOWER, *arguments, settings, partitions],
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


def drained(log: SqliteEventLog, directory: Path, name: str, max_records: int) -> bytes:
    """The store under a name, after whatever was left for it to take in."""
    writer = SqliteFeatureWriter(directory / name)
    stream = FeatureStream(log, writer, small_settings(directory), max_records=max_records)
    while stream.run_once(log.end_offsets()):
        pass
    contents = writer.contents()
    stream.close()
    assert sum(offset for offset, _ in contents.partitions.values()) == N_EVENTS
    return canonical_bytes(contents)


@pytest.mark.integration
def test_a_follower_killed_at_random_ends_with_the_same_store(tmp_path: Path) -> None:
    """SIGKILL and restart, again and again: equal to one run without a fault, byte by byte."""
    log = a_log(tmp_path)
    kill_after = iter([2, 1, 5, 3])
    finished = False
    while not finished:
        with a_follower(tmp_path, "0,1,2,3") as follower:
            assert follower.stdout is not None
            for _ in range(next(kill_after, 10**6)):
                if not follower.stdout.readline():
                    finished = True
                    break
            follower.send_signal(signal.SIGKILL)
    assert next(kill_after, None) is None
    assert drained(log, tmp_path, "f", 8) == drained(log, tmp_path, "whole", 10**6)
    log.close()


@pytest.mark.integration
def test_followers_with_overlapping_partitions_count_each_record_once(tmp_path: Path) -> None:
    """Three processes at once, one of them killed: as if there had been one."""
    log = a_log(tmp_path)
    shares = ["0,1,2,3", "0,1", "1,2,3"]
    followers = [a_follower(tmp_path, share, subprocess.PIPE) for share in shares]
    for follower in followers:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "started\n"
    followers[0].send_signal(signal.SIGKILL)
    for follower in followers:
        follower.communicate(timeout=60)
    assert [follower.returncode for follower in followers] == [-signal.SIGKILL, 0, 0]
    assert drained(log, tmp_path, "f", 8) == drained(log, tmp_path, "whole", 10**6)
    log.close()
