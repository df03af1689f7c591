"""Followers that asked the log for its ends just before another follower of the same went on."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.events import Engagement, Event
from recsys.settings import Settings
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import SqliteEventLog
from train_app.following.evidence.stream_evidence import EvidenceStream
from train_app.following.features.stream_features import FeatureStream

NOW_MS = 1_790_000_000_000


class StaleEndsLog(SqliteEventLog):
    """A log whose ends, when next asked for, are those of a while ago."""

    stale: dict[int, int] | None = None

    def end_offsets(self) -> dict[int, int]:
        """The stale ends once, then the true ones."""
        ends, self.stale = self.stale, None
        return super().end_offsets() if ends is None else ends


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Everything in one directory."""
    return Settings(data_dir=tmp_path)


def clicks(first: int, end: int) -> list[Event]:
    """One user's clicks, numbered."""
    return [
        Engagement(
            event_id=f"e{n}",
            kind="click",
            user_id="u1",
            item_id=f"i{n}",
            timestamp_ms=NOW_MS + n,
            received_at_ms=NOW_MS + n,
            origin="api",
        )
        for n in range(first, end)
    ]


def open_log(settings: Settings, n_events: int) -> StaleEndsLog:
    """A log of so many clicks."""
    log = StaleEndsLog(settings.log_path, settings.events.n_partitions)
    log.append(clicks(0, n_events))
    return log


def test_features_are_not_counted_again_when_another_stream_was_faster(settings: Settings) -> None:
    """An offset past the ends as they were is no sign of a replaced log."""
    log = open_log(settings, 10)
    before = dict.fromkeys(log.end_offsets(), 0)
    every = range(settings.events.n_partitions)
    other = FeatureStream(log, SqliteFeatureWriter(settings.feature_path), settings)
    assert other.run_once(every) == 10
    other.close()
    late = FeatureStream(log, SqliteFeatureWriter(settings.feature_path), settings)
    log.stale = before
    assert late.run_once(every) == 0
    assert late.run_once(every) == 0
    late.close()
    log.close()
    store = SqliteFeatureStore(settings.feature_path)
    (state,) = store.read_users(["u1"])
    store.close()
    assert (len(state.history), state.version) == (10, 10)


def test_evidence_is_not_counted_again_when_another_stream_was_faster(settings: Settings) -> None:
    """Neither by a turn nor by asking how far it lags."""
    log = open_log(settings, 10)
    before = dict.fromkeys(log.end_offsets(), 0)
    every = range(settings.events.n_partitions)
    other = EvidenceStream(log, settings.evidence_url, settings)
    assert other.run_once(every) == 10
    other.close()
    late = EvidenceStream(log, settings.evidence_url, settings)
    log.stale = before
    assert late.lag(every) == 0
    late.close()
    later = EvidenceStream(log, settings.evidence_url, settings)
    log.stale = before
    assert later.run_once(every) == 0
    assert later.run_once(every) == 0
    later.close()
    log.close()


def test_what_is_gone_from_the_log_is_not_waited_for(settings: Settings) -> None:
    """A trimmed partition without newer records has no lag."""
    log = open_log(settings, 10)
    every = range(settings.events.n_partitions)
    stream = FeatureStream(log, SqliteFeatureWriter(settings.feature_path), settings)
    assert stream.run_once(every) == 10
    (partition,) = [p for p, end in log.end_offsets().items() if end]
    log.append(clicks(10, 11))
    assert stream.lag(every) == 1
    log.trim(partition, 11)
    assert stream.lag(every) == 0
    stream.close()
    log.close()
