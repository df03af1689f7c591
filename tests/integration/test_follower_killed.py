"""The log follower, killed at random: the feature store is the same as without a fault."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.events import Engagement
from recsys.settings import FeatureSettings, Settings
from recsys.stores.event_log import SqliteEventLog
from recsys.stores.feature_tables import FeatureWriter
from train_app.following.stream_features import FeatureStream

NOW_MS = 1_790_000_000_000
SETTINGS = Settings(features=FeatureSettings(history_limit=20, popular_limit=10))

_FOLLOWER = """
import sys
from pathlib import Path
from recsys.stores.event_log import SqliteEventLog
from recsys.settings import FeatureSettings, Settings
from train_app.following.stream_features import FeatureStream

settings = Settings(features=FeatureSettings(history_limit=20, popular_limit=10))
log = SqliteEventLog(Path(sys.argv[1]), settings.events.n_partitions)
stream = FeatureStream(log, Path(sys.argv[2]), settings, max_records=8)
print("started", flush=True)
while n := stream.run_once():
    print(n, flush=True)
"""


def an_engagement(n: int, rng: random.Random) -> Engagement:
    """The n-th click, of somebody on something at some time."""
    time_ms = NOW_MS + rng.randrange(10**9)
    return Engagement(
        event_id=f"e{n}",
        kind="click",
        user_id=f"u{rng.randrange(9)}",
        item_id=f"i{rng.randrange(30)}",
        timestamp_ms=time_ms,
        received_at_ms=time_ms,
        origin="api",
    )


def drain(stream: FeatureStream) -> None:
    """Turn until nothing is new."""
    while stream.run_once():
        pass
    stream.close()


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a feature store."""
    writer = FeatureWriter(path)
    tables = ["users", "live_counts", "imported_counts", "popular", "catalogue", "offsets", "meta"]
    rows = {
        table: sorted(writer._connection.execute(f"SELECT * FROM {table}").fetchall())
        for table in tables
    }
    writer.close()
    return rows


@pytest.mark.integration
def test_a_follower_killed_at_random_ends_with_the_same_store(tmp_path: Path) -> None:
    """SIGKILL and restart, again and again: equal to one run without a fault, byte by byte."""
    log = SqliteEventLog(tmp_path / "log.sqlite", SETTINGS.events.n_partitions)
    rng = random.Random(7)
    log.append([an_engagement(n, rng) for n in range(400)])
    kill_after = iter([2, 1, 5, 3])
    finished = False
    while not finished:
        with subprocess.Popen(
            [sys.executable, "-c", _FOLLOWER, str(tmp_path / "log.sqlite"), str(tmp_path / "f")],
            stdout=subprocess.PIPE,
            text=True,
        ) as follower:
            assert follower.stdout is not None
            for _ in range(next(kill_after, 10**6)):
                if not follower.stdout.readline():
                    finished = True
                    break
            follower.send_signal(signal.SIGKILL)
    assert next(kill_after, None) is None

    drain(FeatureStream(log, tmp_path / "f", SETTINGS))
    drain(FeatureStream(log, tmp_path / "whole", SETTINGS, max_records=10**6))
    log.close()
    assert content(tmp_path / "f") == content(tmp_path / "whole")
    assert sum(row[1] for row in content(tmp_path / "f")["offsets"]) == 400  # type: ignore[misc]
