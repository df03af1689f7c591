"""What a failure run does and when: a plan with a timeline drawn from a seed. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum


class Fault(Enum):
    """What is done to the running system."""

    KILL_BROKER = "SIGKILL of a broker"
    KILL_ARCHIVER = "SIGKILL of an archiver"
    KILL_FEATURES = "SIGKILL of a feature stream"
    KILL_EVIDENCE = "SIGKILL of an evidence stream"
    KILL_PRODUCER = "SIGKILL of a producer"
    CUT = "cut: every broker stands still"
    RETURN = "the brokers go on"


@dataclass(frozen=True, slots=True)
class Step:
    """One fault and its time since the producers began."""

    at_s: float
    fault: Fault


@dataclass(frozen=True, slots=True)
class ChaosPlan:
    """Sizes of one failure run."""

    seed: int
    backend: str
    n_brokers: int
    """0 for the embedded log."""
    n_events: int
    produce_s: float
    """The producers offer their events over this time; faults fall into it."""
    n_broker_kills: int
    n_archiver_kills: int
    n_feature_kills: int
    n_evidence_kills: int
    n_producer_kills: int
    cut_s: float
    """0 for none."""
    features: str = "sqlite"
    """The backend of the live features; `redis` is a server of the run's own."""
    cut_share: float = 0.4
    """Share of the events that is offered during the cut."""
    n_partitions: int = 4
    n_archivers: int = 2
    n_feature_streams: int = 2
    n_evidence_streams: int = 2
    n_users: int = 4_000
    n_items: int = 500
    batch_events: int = 50
    events_per_slate: int = 10
    delivery_timeout_s: float = 5.0
    drain_limit_s: float = 120.0
    """The spool has to be empty so soon after the brokers' return."""
    memory_bound_mb: float = 96.0
    """A producer may grow by so much between its first second and the end of the cut."""
    settle_limit_s: float = 600.0
    """The followers have to reach the log's end so soon after the last event."""

    @property
    def cut_begin_s(self) -> float:
        """When the brokers stop to answer."""
        return 0.55 * (self.produce_s - self.cut_s)

    def due_events(self, elapsed_s: float) -> int:
        """How many events should have been offered by then."""
        if elapsed_s >= self.produce_s:
            return self.n_events
        in_cut_s = min(max(elapsed_s - self.cut_begin_s, 0.0), self.cut_s)
        cut_share = self.cut_share if self.cut_s else 0.0
        share = (1 - cut_share) * (elapsed_s - in_cut_s) / (self.produce_s - self.cut_s)
        if self.cut_s:
            share += cut_share * in_cut_s / self.cut_s
        return int(share * self.n_events)


def timeline(plan: ChaosPlan) -> list[Step]:
    """All faults in order of time; the same for the same seed.

    Kills of one kind are spread over the run with some chance in it. Brokers are not killed during
    the cut, and have time to come back between two kills; a producer is killed during the cut too.
    """
    rng = random.Random(plan.seed)
    steps = [
        *_spread(rng, Fault.KILL_ARCHIVER, plan.n_archiver_kills, (0.04, 0.97), plan.produce_s),
        *_spread(rng, Fault.KILL_FEATURES, plan.n_feature_kills, (0.04, 0.97), plan.produce_s),
        *_spread(rng, Fault.KILL_EVIDENCE, plan.n_evidence_kills, (0.04, 0.97), plan.produce_s),
        *_spread(rng, Fault.KILL_PRODUCER, plan.n_producer_kills, (0.10, 0.95), plan.produce_s),
    ]
    if plan.cut_s:
        end_s = plan.cut_begin_s + plan.cut_s
        steps += [Step(plan.cut_begin_s, Fault.CUT), Step(end_s, Fault.RETURN)]
        if plan.n_producer_kills:
            steps.append(Step(plan.cut_begin_s + 0.6 * plan.cut_s, Fault.KILL_PRODUCER))
    steps += _broker_kills(rng, plan)
    return sorted(steps, key=lambda step: step.at_s)


def _broker_kills(rng: random.Random, plan: ChaosPlan) -> list[Step]:
    """Half of them before the cut, the others after it."""
    n_before = (plan.n_broker_kills + 1) // 2 if plan.cut_s else plan.n_broker_kills
    calm_end = plan.cut_begin_s / plan.produce_s if plan.cut_s else 0.9
    before = _spread(rng, Fault.KILL_BROKER, n_before, (0.06, calm_end), plan.produce_s)
    after_cut = (plan.cut_begin_s + plan.cut_s) / plan.produce_s + 0.04
    n_after = plan.n_broker_kills - n_before
    return before + _spread(rng, Fault.KILL_BROKER, n_after, (after_cut, 0.97), plan.produce_s)


def _spread(
    rng: random.Random, fault: Fault, n: int, span: Sequence[float], scale_s: float
) -> list[Step]:
    """`n` faults in equal slots of a span, each early in its slot by chance."""
    first, last = span
    slot = (last - first) / max(n, 1)
    return [Step(scale_s * (first + slot * (k + 0.6 * rng.random())), fault) for k in range(n)]
