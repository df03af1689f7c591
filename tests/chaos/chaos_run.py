"""Carries out a failure run: starts all, does what the timeline says, waits until all is in.

Knows brokers and clocks; when things happen is `chaos_plan`, what has to hold `chaos_verdict`.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

import psutil

from brokers.kafka_cluster import KafkaCluster
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from recsys.stores.log.open_log import open_log
from tests.chaos.chaos_cast import N_PRODUCERS, PRODUCER, Cast
from tests.chaos.chaos_facts import TOPIC, RunFacts, patiently, run_settings
from tests.chaos.chaos_plan import ChaosPlan, Fault, Step, timeline
from tests.redis_server import RedisServer
from train_app.following.follow_log import Follower
from train_app.following.worker_replica import open_follower
from train_app.lake.archiving.ingest import run_ingest

TICK_S = 0.05
BROKER_AWAY_S = 2.0
PRODUCER_AWAY_S = 0.5
_MEMORY_EVERY_S = 0.2
_START_LIMIT_S = 120.0
_KILLS = {
    Fault.KILL_ARCHIVER: ARCHIVER,
    Fault.KILL_FEATURES: FEATURES,
    Fault.KILL_EVIDENCE: EVIDENCE,
    Fault.KILL_PRODUCER: PRODUCER,
}


class ChaosRun:
    """One failure run in a directory of its own; a context manager that leaves nothing running.

    The plan's clock stands still while a fault waits for its victim to be up again, so that every
    kill hits a process at work, on a slow machine too.
    """

    def __init__(self, plan: ChaosPlan, directory: Path, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._directory = directory
        self._say = say
        self._stack = ExitStack()
        self._pending: list[tuple[float, Callable[[], None]]] = []
        self._turns: Counter[Fault] = Counter()
        self._plan_s = 0.0
        self._is_cut = False
        self._returned_s: float | None = None
        self._memory_due_s = 0.0

    def __enter__(self) -> ChaosRun:
        plan, directory = self._plan, self._directory
        self._brokers: KafkaCluster | None = None
        if plan.n_brokers:
            brokers = KafkaCluster(plan.n_brokers, directory / "kafka", say=self._say)
            self._brokers = self._stack.enter_context(brokers)
            brokers.create_topic(TOPIC, plan.n_partitions)
        servers = self._brokers.bootstrap_servers if self._brokers is not None else ()
        self._facts = RunFacts(
            run_settings(plan, directory, servers, self._start_redis()),
            time.time_ns() // 1_000_000,
            [directory / f"acknowledged-{n}" for n in range(N_PRODUCERS)],
        )
        self._cast = Cast(plan, self._facts, directory)
        self._stack.callback(self._cast.kill_all)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start_redis(self) -> str:
        """The address of a server for the features; empty where they are in a file."""
        if self._plan.features != "redis":
            return ""
        server = RedisServer(self._directory / "redis")
        self._stack.callback(server.stop)
        server.start()
        return server.url

    def execute(self) -> RunFacts:
        """Produce under faults, wait until everything is in, end every child."""
        self._cast.start_all()
        self._wait_until_up()
        began_s = time.monotonic()
        self._produce(began_s)
        self._facts.produced_s = time.monotonic() - began_s
        self._say(f"{self._facts.produced_s:6.1f} s  all was offered")
        self._cast.end(PRODUCER)
        self._settle()
        self._cast.end(ARCHIVER, FEATURES, EVIDENCE)
        return self._facts

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._cast.is_everybody_up() and time.monotonic() < deadline:
            time.sleep(TICK_S)

    def _produce(self, began_s: float) -> None:
        plan, steps = self._plan, deque(timeline(self._plan))
        limit_s = 2 * plan.produce_s + plan.drain_limit_s + plan.settle_limit_s
        last_s = began_s
        while time.monotonic() - began_s < limit_s:
            while steps and steps[0].at_s <= self._plan_s and self._can_do(steps[0]):
                self._do(steps.popleft(), time.monotonic() - began_s)
            now_s = time.monotonic()
            if not steps or steps[0].at_s > self._plan_s:
                self._plan_s += now_s - last_s
            last_s = now_s
            n_due = plan.due_events(self._plan_s)
            for producer in self._cast.producers():
                producer.tell(str(n_due))
            self._do_pending(now_s)
            self._watch(now_s)
            if not steps and not self._pending and self._is_all_sent():
                return
            time.sleep(TICK_S)
        self._facts.problems.append(f"the producers were not done after {limit_s:.0f} s")

    def _is_all_sent(self) -> bool:
        reports = [child.report for child in self._cast.producers()]
        is_done = all(report.get("is_done") and not report["spooled"] for report in reports)
        has_drained = self._returned_s is None or self._facts.drained_s is not None
        return is_done and has_drained and not self._has_spool()

    def _has_spool(self) -> bool:
        """Whether anybody, dead or alive, has left events on disk."""
        return any((self._directory / "spool").glob("*/*.spool"))

    def _victim(self, fault: Fault) -> int:
        """Its number; they take turns."""
        counts = {
            Fault.KILL_BROKER: self._plan.n_brokers,
            Fault.KILL_ARCHIVER: self._plan.n_archivers,
            Fault.KILL_FEATURES: self._plan.n_feature_streams,
            Fault.KILL_EVIDENCE: self._plan.n_evidence_streams,
            Fault.KILL_PRODUCER: N_PRODUCERS,
        }
        return self._turns[fault] % counts[fault]

    def _can_do(self, step: Step) -> bool:
        if step.fault in _KILLS:
            return self._cast.is_up(_KILLS[step.fault], self._victim(step.fault))
        return True

    def _do(self, step: Step, elapsed_s: float) -> None:
        fault = step.fault
        self._say(f"{elapsed_s:6.1f} s  {fault.value}")
        self._facts.n_faults[fault] += 1
        if fault is Fault.KILL_BROKER:
            self._kill_broker(self._victim(fault))
        elif fault in _KILLS:
            kind, number = _KILLS[fault], self._victim(fault)
            self._cast.kill(kind, number)
            away_s = PRODUCER_AWAY_S if kind == PRODUCER else 0.0
            self._later(away_s, lambda: self._cast.start(kind, number))
        else:
            self._cut(fault is Fault.CUT)
        self._turns[fault] += 1

    def _kill_broker(self, index: int) -> None:
        assert self._brokers is not None
        brokers = self._brokers
        brokers.kill(index)
        self._later(BROKER_AWAY_S, lambda: brokers.start(index, wait=False))

    def _cut(self, begins: bool) -> None:
        """Brokers that neither answer nor close: what a client sees of a cut cable."""
        assert self._brokers is not None
        for index in range(self._plan.n_brokers):
            if begins:
                self._brokers.pause(index)
            else:
                self._brokers.resume(index)
        self._is_cut = begins
        self._returned_s = None if begins else time.monotonic()

    def _later(self, delay_s: float, act: Callable[[], None]) -> None:
        self._pending.append((time.monotonic() + delay_s, act))

    def _do_pending(self, now_s: float) -> None:
        for entry in [entry for entry in self._pending if entry[0] <= now_s]:
            self._pending.remove(entry)
            entry[1]()

    def _watch(self, now_s: float) -> None:
        """Note memory and spool, and replace whoever ended without being killed."""
        for kind, number in self._cast.dismiss_dead():
            self._cast.start(kind, number)
        if now_s < self._memory_due_s:
            return
        self._memory_due_s = now_s + _MEMORY_EVERY_S
        facts, producers = self._facts, self._cast.producers()
        memory_mb = max((_rss_mb(child.pid) for child in producers), default=0.0)
        n_spooled = sum(int(child.report.get("spooled", 0)) for child in producers)
        facts.max_spooled = max(facts.max_spooled, n_spooled)
        is_waiting = self._returned_s is not None and facts.drained_s is None
        if self._is_cut or is_waiting:
            facts.memory_away_mb = max(facts.memory_away_mb, memory_mb)
        elif self._returned_s is None:
            facts.memory_before_mb = max(facts.memory_before_mb, memory_mb)
        if is_waiting and not n_spooled and not self._has_spool():
            facts.drained_s = now_s - (self._returned_s or 0.0)
            self._say(f"        the spools are empty {facts.drained_s:.1f} s after the return")

    def _settle(self) -> None:
        """Bring everything in: the lake as a training does at its start, beside the archivers."""
        settings = self._facts.settings
        began_s = time.monotonic()
        patiently(lambda: run_ingest(settings, lambda *_: None))
        with closing(patiently(lambda: open_log(settings))) as log:
            for worker in (FEATURES, EVIDENCE):
                with closing(open_follower(worker, log, settings)) as stream:
                    if not self._await_end(worker, stream, began_s):
                        return
        self._facts.settled_s = time.monotonic() - began_s

    def _await_end(self, worker: str, stream: Follower, began_s: float) -> bool:
        """Whether those who follow reach the log's end in time."""
        while lag := patiently(lambda: stream.lag(range(self._plan.n_partitions))):
            if time.monotonic() - began_s > self._plan.settle_limit_s:
                self._facts.problems.append(f"{worker} still lag by {lag} records")
                return False
            time.sleep(0.2)
        return True


def _rss_mb(pid: int) -> float:
    try:
        return float(psutil.Process(pid).memory_info().rss) / 1e6
    except psutil.NoSuchProcess:
        return 0.0
