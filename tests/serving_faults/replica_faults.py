"""Faults of stage replicas: killed, the only one lost, frozen, slow to start."""

from __future__ import annotations

import time

import psutil

from tests.serving_faults.fault import Fault, Run
from tests.serving_faults.fault_load import await_that
from tests.serving_faults.fault_services import PAIRS, SINGLES

STAGES = ("Scorer", "Ordering", "Shard0", "Shard1")
N_KILLS = 5
N_LOSSES = 3
BACK_WITHIN_S = 20.0
FROZEN_S = 6.0
_QUEUE = 30
"""Answers awaited before and after a fault."""


def kill_replicas(run: Run) -> None:
    """SIGKILL of one of two replicas of every stage at once, as soon as there are two again."""
    for number in range(N_KILLS):
        for stage in STAGES:
            run.place.await_linked(stage, 2)
        before = {stage: run.place.linked(stage) for stage in STAGES}
        run.load.await_answers(_QUEUE)
        killed_s = time.monotonic()
        for pair in before.values():
            pair[number % 2].kill()
            run.n_done += 1
        for stage, pair in before.items():
            await_new(run, stage, pair)
        run.healed(time.monotonic() - killed_s)
    run.load.await_answers(_QUEUE)
    n_degraded = sum(bool(one.degraded) for one in run.load.seen)
    run.found("degraded answers", f"{n_degraded}", n_degraded == 0)


def await_new(run: Run, deployment: str, before: list[psutil.Process]) -> None:
    """Return once there are as many as before that the gateway is connected to, one of them new."""

    def is_whole() -> bool:
        linked = run.place.linked(deployment)
        return len(linked) == len(before) and bool({*linked} - {*before})

    await_that(is_whole, f"a new replica of {deployment}", 90)


def lose_shard(run: Run) -> None:
    """SIGKILL of the only replica of a shard."""
    for _ in range(N_LOSSES):
        (shard,) = run.place.replicas("Shard1")
        run.load.await_whole()
        killed_s = time.monotonic()
        shard.kill()
        run.n_done += 1
        await_that(lambda at=killed_s: _lacks_coverage(run, at), "less coverage")  # type: ignore[misc]
        await_new(run, "Shard1", [shard])
        run.healed(run.load.await_whole() - killed_s)
    slowest_s = max(run.healed_s)
    run.found(
        f"whole again within {BACK_WITHIN_S:.0f} s",
        f"{slowest_s:.1f} s at most",
        slowest_s <= BACK_WITHIN_S,
    )
    run.found("coverage of the answers meanwhile", f"{run.load.least_coverage}",
              run.load.least_coverage == 0.5)  # fmt: skip


def _lacks_coverage(run: Run, since_s: float) -> bool:
    return any(one.coverage < 1 for one in run.load.since(since_s))


def freeze_scorer(run: Run) -> None:
    """SIGSTOP of one of two scorers: it answers nothing and closes nothing."""
    # By then it is known how long calls take, and what is late.
    run.load.await_answers(400)
    for _ in range(3):
        run.place.await_linked("Scorer", 2)
        victim = run.place.linked("Scorer")[0]
        frozen_s = time.monotonic()
        run.place.freeze(victim)
        run.n_done += 1
        await_that(lambda at=frozen_s: time.monotonic() - at > FROZEN_S, "its time")  # type: ignore[misc]
        during = run.load.since(frozen_s)
        run.place.thaw()
        n_whole = sum(one.is_whole for one in during)
        run.found("whole answers meanwhile", f"{n_whole} of {len(during)}",
                  n_whole >= 0.95 * len(during))  # fmt: skip
        thawed_s = time.monotonic()
        run.healed(run.load.await_whole() - thawed_s)


def slow_start(run: Run) -> None:
    """A replica is killed, and the one that comes for it stands still for a while as it starts."""
    run.place.await_linked("Scorer", 2)
    before = run.place.linked("Scorer")
    run.load.await_answers(_QUEUE)
    killed_s = time.monotonic()
    before[0].kill()
    run.n_done += 1
    await_that(lambda: bool({*run.place.replicas("Scorer")} - {*before}), "a new process")
    (new,) = {*run.place.replicas("Scorer")} - {*before}
    run.place.freeze(new)
    await_that(lambda: time.monotonic() - killed_s > 2 * FROZEN_S, "its time")
    run.place.thaw()
    await_new(run, "Scorer", before)
    run.healed(time.monotonic() - killed_s)
    run.load.await_answers(_QUEUE)
    n_degraded = sum(bool(one.degraded) for one in run.load.seen)
    run.found("degraded answers", f"{n_degraded}", n_degraded == 0)


REPLICA_FAULTS = (
    Fault(
        "replicas-killed",
        f"SIGKILL of one of two replicas of every stage at once, {N_KILLS} times",
        kill_replicas,
        PAIRS,
    ),
    Fault(
        "scorer-frozen",
        f"one of two scorers stands still (SIGSTOP) for {FROZEN_S:.0f} s",
        freeze_scorer,
        PAIRS,
    ),
    Fault(
        "slow-start",
        f"a new scorer stands still for {2 * FROZEN_S:.0f} s while it starts",
        slow_start,
        PAIRS,
    ),
)
LOST = Fault("shard-lost", "SIGKILL of the only replica of a shard", lose_shard, SINGLES)
