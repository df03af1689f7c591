"""The doctor's checks of the stores, the log and what follows it; each changes nothing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.data_facts import disk_facts, worker_facts
from cluster.findings import Check, Finding
from recsys.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from recsys.settings import Settings


def check_stores(settings: Settings) -> Iterable[Finding]:
    """The SQLite files that the settings use can be opened and are sound."""
    used = {
        settings.log_path: settings.events.backend == "sqlite",
        settings.feature_path: settings.features.backend == "sqlite",
        settings.data_dir / "control.sqlite": not settings.control_store_url,
        settings.data_dir / "evidence.sqlite": not settings.evidence_store_url,
    }
    for path in (path for path, is_used in used.items() if is_used):
        if not path.exists():
            yield Finding("ok", path.name, "not there yet")
            continue
        try:
            problem = _sqlite_problem(path)
        except sqlite3.Error as error:
            problem = str(error)
        if problem is None:
            yield Finding("ok", path.name, f"sound, {path.stat().st_size / 1024**2:.1f} MiB")
        else:
            mend = f"stop the cluster and restore or move away {path}"
            yield Finding("fail", path.name, f"is damaged: {problem}", mend)


def _sqlite_problem(path: Path) -> str | None:
    # Not mode=ro: after a crash a reader has to recover the write-ahead log.
    connection = sqlite3.connect(f"{path.resolve().as_uri()}?mode=rw", uri=True, timeout=5.0)
    try:
        row = connection.execute("PRAGMA quick_check(1)").fetchone()
    finally:
        connection.close()
    return None if row == ("ok",) else str(row[0])


def check_log(settings: Settings) -> Iterable[Finding]:
    """The broker can be reached, and its topic has the partitions that are expected."""
    if settings.events.backend == "sqlite":
        return
    from recsys.stores.log.open_log import open_log

    kafka = settings.events.kafka
    mend = (
        "start the broker, or correct events.kafka.bootstrap_servers; until then events wait in "
        "the spool"
    )
    yield reached(
        f"kafka topic {kafka.topic}",
        lambda: open_log(settings),
        lambda log: (
            f"{len(log.end_offsets())} partitions, {sum(log.end_offsets().values())} events"
        ),
        mend,
    )


def check_features(settings: Settings) -> Iterable[Finding]:
    """The server of the online features can be reached."""
    if settings.features.backend == "sqlite":
        return
    from recsys.stores.features.open_features import open_features

    mend = (
        "start the server, or correct features.redis_url and FLYWHEEL_REDIS_PASSWORD; until then "
        "every user is answered as unknown"
    )
    yield reached(
        "redis",
        lambda: open_features(settings),
        lambda store: f"answers, {sum(store.offsets().values())} events are in the features",
        mend,
    )


def reached(
    subject: str, connect: Callable[[], Any], describe: Callable[[Any], str], mend: str
) -> Finding:
    """Whether a server answers; its own words where it does not."""
    try:
        with closing(connect()) as server:
            return Finding("ok", subject, describe(server))
    except ConfigError as error:
        return Finding("fail", subject, str(error))
    except StoreError as error:
        return Finding("fail", subject, str(error), mend)


def check_leftovers(settings: Settings) -> Iterable[Finding]:
    """Events that wait in the spool, damaged files set aside, rows of replicas that are gone."""
    disk = disk_facts(settings)
    if disk["spool_bytes"]:
        detail = (
            f"{disk['spool_bytes'] / 1024**2:.1f} MiB of events wait in {settings.data_dir}/spool"
        )
        mend = "they go to the log while the cluster runs and the broker is there"
        yield Finding("warn", "spool", detail, mend)
    for path in disk["set_aside"]:
        mend = "see docs/when-something-is-wrong.md, then move it away"
        yield Finding("warn", "set aside", f"{path} holds events", mend)
    for path in disk["replaceable"]:
        mend = "its content was computed anew; delete it"
        yield Finding("warn", "set aside", f"{path} could not be used", mend)
    workers = worker_facts(settings, time.time_ns() // 1_000_000)
    n_gone = sum(found["n_gone"] for found in workers.values())
    if n_gone:
        mend = "nobody waits for them; a replica that starts an hour later removes the rows"
        detail = f"{n_gone} replicas ended without leaving"
        yield Finding("warn", "worker replicas", detail, mend)
    for worker, found in workers.items():
        if found["n_missed"]:
            detail = f"{worker} missed {found['n_missed']} records within the last day"
            mend = "see 'Records were missed' in docs/when-something-is-wrong.md"
            yield Finding("warn", "gap", detail, mend)


DATA_CHECKS: tuple[Check, ...] = (check_stores, check_log, check_features, check_leftovers)
"""In the order they are shown."""
