"""Faults of time: clocks that jump, memory that grows, more requests than can be answered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import psutil

from bench.memory_slope import WATCH_S, Sample, slope_mb_per_min
from bench.wrk_load import run_wrk
from recsys.traffic import Arm, TrafficPlan
from serve_app.stages.ladder import Rung
from tests.bundles_for_tests import SALT, all_to, put_in_force
from tests.serving_faults.fault import Fault, Run
from tests.serving_faults.fault_load import await_that
from tests.serving_faults.fault_services import (
    DAWDLE_S,
    DAWDLING,
    N_HOLDERS,
    PAIRS,
    RAISING,
    SINGLES,
    clock_file,
)

RUSH_S = 6
RUSH_CONNECTIONS = 256
LEFT_WITHIN_S = 8.0


def jump_clock(run: Run) -> None:
    """Every process of the service is told another time of day, forth and back."""
    path = clock_file(run.place.settings.data_dir)
    for offset_s in (3_600.0, -3_600.0, 86_400.0, 0.0):
        path.write_text(f"{offset_s}")
        run.n_done += 1
        run.load.await_answers(100)
        reply = run.place.client.post(
            "/v1/events", json={"events": [{"kind": "click", "user_id": "u", "item_id": "i3"}]}
        )
        run.found(f"an event at {offset_s:+.0f} s", f"{reply.status_code}",
                  reply.status_code == 202)  # fmt: skip
    run.found("degraded answers", f"{run.load.degraded.total()}", not run.load.degraded)


def watch_memory(run: Run) -> None:
    """Nothing is done but asking; how much every process grows."""
    samples: dict[psutil.Process, list[Sample]] = {}
    began_s = time.monotonic()
    run.n_done += 1
    pause = threading.Event()
    while (elapsed_s := time.monotonic() - began_s) < WATCH_S:
        for name in ("Gateway", "Scorer", "Ordering", "Shard0", "Shard1"):
            (process,) = run.place.replicas(name)
            rss_mb = process.memory_info().rss / 1e6
            samples.setdefault(process, []).append(Sample(elapsed_s, rss_mb))
        pause.wait(1.0)
    slopes = [slope_mb_per_min(series[len(series) // 3 :]) for series in samples.values()]
    figures = ", ".join(f"{slope:+.2f}" for slope in slopes)
    run.found("MB a minute of gateway, scorer, ordering and shards, below 1 each", figures,
              max(slopes) < 1.0)  # fmt: skip


def rush(run: Run) -> None:
    """More connections than the service has places for, with a ladder that begins early."""
    run.load.await_whole()
    began_s = time.monotonic()
    figures = run_wrk(
        run.place.base_url, "/v1/recommend?user_id=%d&k=10", 200, RUSH_CONNECTIONS, RUSH_S
    )
    run.n_done += 1
    over_s = time.monotonic()
    run.found("requests of the rush that failed", f"{figures.n_errors} of {figures.n_requests:,}"
              f" at {figures.requests_per_s:.0f} a second, p99 {figures.p99_ms:.0f} ms",
              figures.n_errors == 0)  # fmt: skip
    run.healed(run.load.await_whole() - over_s)
    during = [one for one in run.load.since(began_s, over_s) if one.degraded]
    climbed = {rung.reason for rung in Rung if rung} & {r for s in during for r in s.degraded}
    run.found("rungs that were climbed", ", ".join(sorted(climbed)), bool(climbed))
    run.found(
        f"all left within {LEFT_WITHIN_S:.0f} s",
        f"{run.healed_s[-1]:.1f} s",
        run.healed_s[-1] <= LEFT_WITHIN_S,
    )


def poison(number: int) -> Callable[[Run], None]:
    """A bundle that passes every check fails, or dawdles, once it answers half of the users."""

    def act(run: Run) -> None:
        stable, poisoned = run.place.bundle_ids[0], run.place.bundle_ids[number]
        settings = run.place.settings
        put_in_force(settings, all_to(stable), also_required=(poisoned,))
        await_that(lambda: run.place.is_held(poisoned, N_HOLDERS), f"{poisoned} held by all")
        began_s = time.monotonic()
        put_in_force(settings, half_to(stable, poisoned))
        run.n_done += 1
        await_that(
            lambda: sum(s.bundle_id == poisoned for s in run.load.seen) > 100,
            "answers of the canary",
        )
        put_in_force(settings, all_to(stable))
        back_s = time.monotonic()
        run.healed(run.load.await_whole() - back_s)
        of_stable = [s for s in run.load.since(began_s, back_s) if s.bundle_id == stable]
        n_degraded = sum(bool(one.degraded) for one in of_stable)
        run.found("degraded answers of stable meanwhile", f"{n_degraded} of {len(of_stable)}",
                  n_degraded <= 0.02 * len(of_stable))  # fmt: skip

    return act


def half_to(stable: str, canary: str) -> TrafficPlan:
    """Half of the users to each."""
    return TrafficPlan(1, SALT, (Arm("stable", stable, 0.5), Arm("canary", canary, 0.5)))


TIME_FAULTS = (
    Fault(
        "bundle-fails",
        "a canary whose scorer raises gets half of the users",
        poison(RAISING),
        PAIRS,
    ),
    Fault(
        "bundle-dawdles",
        f"a canary whose scorer takes {DAWDLE_S} s gets half of the users",
        poison(DAWDLING),
        PAIRS,
    ),
    Fault(
        "time-jumps",
        "the clock of every process jumps by an hour and a day, forth and back",
        jump_clock,
        PAIRS,
    ),
)
RUSH = Fault(
    "rush", f"{RUSH_CONNECTIONS} connections that never pause, for {RUSH_S} s", rush, SINGLES
)
MEMORY = Fault("memory", f"{WATCH_S:.0f} s of load, nothing else", watch_memory, SINGLES)
