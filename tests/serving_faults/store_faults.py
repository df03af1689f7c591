"""Faults of what a gateway reads and writes: features, control store, event log."""

from __future__ import annotations

import itertools
import threading
import time

import httpx

from brokers.kafka_cluster import KafkaCluster
from recsys.stores.log.open_log import open_log
from tests.bundles_for_tests import all_to, put_in_force
from tests.redis_server import RedisServer
from tests.serving_faults.fault import Fault, Run
from tests.serving_faults.fault_load import await_that
from tests.serving_faults.fault_services import N_HOLDERS, PAIRS, WITH_KAFKA

AWAY_S = 5.0


def features_slow(run: Run) -> None:
    """The server stands still: it takes questions and answers none."""
    server: RedisServer = run.server
    for _ in range(2):
        run.load.await_whole()
        _away(run, server.pause, server.resume, "features: unavailable")


def features_gone(run: Run) -> None:
    """The server is killed and comes back."""
    server: RedisServer = run.server
    for _ in range(2):
        run.load.await_whole()
        _away(run, server.kill, server.start, "features: unavailable")


def _away(run: Run, take: object, bring: object, reason: str) -> None:
    """Take something away for a while; what is left out must be said and end by itself."""
    assert callable(take)
    assert callable(bring)
    taken_s = time.monotonic()
    take()
    run.n_done += 1
    await_that(lambda: any(reason in s.degraded for s in run.load.since(taken_s)), reason)
    await_that(lambda: time.monotonic() - taken_s > AWAY_S, "its time")
    bring()
    back_s = time.monotonic()
    run.healed(run.load.await_whole() - back_s)
    others = set(run.load.degraded) - {reason}
    run.found("other reasons to degrade", ", ".join(others) or "none", not others)


def control_gone(run: Run) -> None:
    """The file is gone and cannot be made, a scorer dies meanwhile; then all is back."""
    path = run.place.settings.data_dir / "control.sqlite"
    kept = path.with_name("kept.sqlite")
    first, *_, second = run.place.bundle_ids
    gone_s = time.monotonic()
    path.rename(kept)
    path.mkdir()
    run.n_done += 1
    await_that(lambda: time.monotonic() - gone_s > AWAY_S, "its time")
    path.rmdir()
    kept.rename(path)
    back_s = time.monotonic()
    meanwhile = {one.bundle_id for one in run.load.since(gone_s, back_s)}
    run.found("bundles that answered meanwhile", ", ".join(meanwhile), meanwhile == {first})
    put_in_force(run.place.settings, all_to(first), also_required=(second,))
    await_that(lambda: run.place.is_held(second, N_HOLDERS), f"{second} held by all")
    put_in_force(run.place.settings, all_to(second))
    await_that(lambda: run.load.seen[-1].bundle_id == second, "the next plan being followed")
    run.healed(time.monotonic() - back_s)
    run.found("degraded answers", f"{run.load.degraded.total()}", not run.load.degraded)


def log_gone(run: Run) -> None:
    """The only broker is killed while events are sent; every one that was taken is in the log."""
    cluster: KafkaCluster = run.server
    taken: list[str] = []
    refused: list[str] = []
    over = threading.Event()
    sender = threading.Thread(target=_send, args=(run.place.base_url, taken, refused, over))
    sender.start()
    try:
        await_that(lambda: len(taken) > 50, "events before")
        cluster.kill(0)
        run.n_done += 1
        await_that(lambda: _spooled(run) > 0, "events on disk")
        n_before = len(taken)
        await_that(lambda: len(taken) > n_before + 100, "events meanwhile")
        cluster.start(0)
        back_s = time.monotonic()
        await_that(lambda: _spooled(run) == 0, "an empty spool", 120)
        run.healed(time.monotonic() - back_s)
    finally:
        over.set()
        sender.join()
    run.found("events refused", f"{len(refused)} {refused[:1]}", not refused)
    await_that(lambda: _spooled(run) == 0, "an empty spool")
    missing = set(taken) - _in_log(run)
    run.found("events acknowledged and not in the log", f"{len(missing)} of {len(taken):,}",
              not missing)  # fmt: skip
    run.found("degraded answers", f"{run.load.degraded.total()}", not run.load.degraded)


def _send(base_url: str, taken: list[str], refused: list[str], over: threading.Event) -> None:
    with httpx.Client(base_url=base_url, timeout=30) as client:
        for n in itertools.count():
            if over.wait(0.02):
                return
            event_id = f"fault-{n}"
            event = {"event_id": event_id, "kind": "click", "user_id": f"u{n}", "item_id": "i3"}
            reply = client.post("/v1/events", json={"events": [event]})
            if reply.status_code == 202:
                taken.append(event_id)
            else:
                refused.append(f"{reply.status_code} {reply.text[:100]}")


def _spooled(run: Run) -> int:
    return int(run.place.client.get("/readyz").json()["spooled_events"])


def _in_log(run: Run) -> set[str]:
    """Ids of the engagements that the log holds."""
    log = open_log(run.place.settings)
    found: set[str] = set()
    try:
        for partition, end in log.end_offsets().items():
            offset = 0
            while offset < end:
                records = log.read(partition, offset, 1_000)
                if not records:
                    break
                found |= {record.event_id for record in records}
                offset = records[-1].offset + 1
    finally:
        log.close()
    return found


STORE_FAULTS = (
    Fault(
        "features-slow",
        f"Redis with the features stands still (SIGSTOP) for {AWAY_S:.0f} s",
        features_slow,
        PAIRS,
    ),
    Fault(
        "features-gone",
        f"SIGKILL of Redis with the features, back after {AWAY_S:.0f} s",
        features_gone,
        PAIRS,
    ),
    Fault(
        "control-gone",
        f"the control store's file is gone for {AWAY_S:.0f} s",
        control_gone,
        PAIRS,
    ),
)
LOG_GONE = Fault("log-gone", "SIGKILL of the only Kafka broker", log_gone, WITH_KAFKA)
