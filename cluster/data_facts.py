"""What `cluster status` says of the log and of the workers that follow it, and when it is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.settings import Settings
    from recsys.stores.control.membership import Member

MAX_LAG_S = 10.0
"""An event waits at most so long for the feature store while all is well."""
MAX_ARCHIVE_LAG_S = 120.0
"""The lake and the evidence are read by trainings and rollouts, which are minutes apart."""
GAP_ALARM_MS = 86_400_000
"""A gap in what a worker could read is told of for a day; the lake's own check tells for ever."""


def log_facts(settings: Settings, now_ms: int) -> dict[str, Any]:
    """The log's ends, and how far the feature store is behind them.

    Raises:
        StoreError: the log or the feature store cannot be read.
    """
    facts: dict[str, Any] = {"backend": settings.events.backend}
    if settings.events.backend == "sqlite" and not settings.log_path.exists():
        return {**facts, "n_events": 0, "end_offsets": {}, "lag_events": 0, "lag_s": 0.0}
    from recsys.stores.features.open_features import open_features
    from recsys.stores.log.open_log import open_log

    with closing(open_log(settings)) as log, closing(open_features(settings)) as store:
        begins, ends, applied = log.begin_offsets(), log.end_offsets(), store.offsets()
        behind = {p: end - applied.get(p, begins[p]) for p, end in ends.items()}
        waiting_since = [
            _appended_ms(record.value, now_ms)
            for partition, lag in behind.items()
            if lag > 0
            for record in log.read(partition, applied.get(partition, 0), 1)
        ]
    oldest_ms = min(waiting_since, default=now_ms)
    return {
        **facts,
        "n_events": sum(ends.values()),
        "end_offsets": dict(sorted(ends.items())),
        "lag_events": sum(behind.values()),
        "lag_s": max(0.0, (now_ms - oldest_ms) / 1000.0),
    }


def disk_facts(settings: Settings) -> dict[str, Any]:
    """What waits in the spool, and the files that were set aside."""
    from recsys.stores.spool import leftover_files

    waiting = leftover_files.spool_files(settings.data_dir)
    return {
        "spool_files": len(waiting),
        "spool_bytes": leftover_files.size_of(waiting),
        "set_aside": [str(path) for path in leftover_files.set_aside_files(settings.data_dir)],
        "replaceable": [str(path) for path in leftover_files.replaceable_files(settings.data_dir)],
    }


def worker_facts(settings: Settings, now_ms: int) -> dict[str, dict[str, Any]]:
    """What the replicas of each worker last said of themselves.

    Raises:
        StoreError: the control store cannot be read.
    """
    from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES, Membership

    expected = {
        ARCHIVER: settings.workers.archiver_replicas,
        FEATURES: settings.workers.feature_replicas,
        EVIDENCE: settings.workers.evidence_replicas,
    }
    with closing(Membership(settings.control_url)) as membership:
        rows = membership.members()
    timeout_ms = settings.workers.member_timeout_s * 1000
    return {
        worker: _of_worker([row for row in rows if row.worker == worker], n, now_ms, timeout_ms)
        for worker, n in expected.items()
    }


def _of_worker(
    rows: Iterable[Member], n_expected: int, now_ms: int, timeout_ms: float
) -> dict[str, Any]:
    rows = list(rows)
    living = [row for row in rows if abs(now_ms - row.heartbeat_ms) <= timeout_ms]
    gaps = [row for row in rows if row.n_missed and now_ms - row.missed_ms <= GAP_ALARM_MS]
    return {
        "n_replicas": len(living),
        "n_expected": n_expected,
        "lag_records": sum(row.lag_records for row in living),
        "freshness_s": round(max((row.freshness_s for row in living), default=0.0), 1),
        "n_records": sum(row.n_records for row in living),
        "n_bad": sum(row.n_bad for row in living),
        "n_repeated": sum(row.n_repeated for row in living),
        "n_missed": sum(row.n_missed for row in gaps),
        "missed_ms": max((row.missed_ms for row in gaps), default=0),
        "problems": [row.problem for row in living if row.problem],
        "n_gone": len([row for row in rows if row.heartbeat_ms]) - len(living),
    }


def data_problems(
    log: Mapping[str, Any], disk: Mapping[str, Any], workers: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """What is wrong with the way of the events, one sentence each."""
    problems = []
    lag_s = log.get("lag_s", 0.0)
    if lag_s > MAX_LAG_S:
        problems.append(
            f"the feature store is {log['lag_events']} events and {lag_s:.0f} s behind the "
            f"log, expected under {MAX_LAG_S:.0f} s; see application workers"
        )
    if not log and disk.get("spool_bytes"):
        problems.append(
            f"{disk['spool_bytes'] / 1024**2:.1f} MiB of events wait in the spool; they go to the "
            "log by themselves when it is back"
        )
    problems += [
        f"{path} was set aside and holds events; see 'A file was set aside' in "
        "docs/when-something-is-wrong.md, then move it away"
        for path in disk.get("set_aside", ())
    ]
    for worker, found in workers.items():
        problems += worker_problems(worker, found)
    return problems


def worker_problems(worker: str, found: Mapping[str, Any]) -> list[str]:
    """What is wrong with one worker."""
    problems = [f"{worker}: {sentence}" for sentence in found["problems"]]
    if not found["n_replicas"]:
        problems.append(
            f"no replica of the worker {worker} lives, expected {found['n_expected']}; "
            "see application workers"
        )
    if worker != "features" and found["freshness_s"] > MAX_ARCHIVE_LAG_S:
        problems.append(
            f"the worker {worker} is {found['lag_records']} records and "
            f"{found['freshness_s']:.0f} s behind the log, expected under "
            f"{MAX_ARCHIVE_LAG_S:.0f} s; see application workers"
        )
    if found["n_missed"]:
        problems.append(
            f"{found['n_missed']} records were gone from the log before the worker {worker} could "
            "read them; see 'Records were missed' in docs/when-something-is-wrong.md"
        )
    return problems


def _appended_ms(value: bytes, now_ms: int) -> int:
    """About when the event was appended: its receipt where it has one, else its own time."""
    from recsys.events import Engagement, decode_event

    try:
        event = decode_event(value)
    except ValueError:
        return now_ms
    return event.received_at_ms if isinstance(event, Engagement) else event.timestamp_ms
