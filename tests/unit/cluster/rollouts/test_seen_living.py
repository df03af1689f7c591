"""Who a status says lives: a late replica, a wrong clock, a dead one."""

from __future__ import annotations

from dataclasses import dataclass, field

from cluster.rollouts.driving.living_rows import LOOK_S, STATUS_LOOKS_S, seen_living
from recsys.clock_skew import FRESH_MS
from recsys.stores.control.control import Readiness

NOW_MS = 1_000_000


@dataclass
class Store:
    """Rows of replicas by how far their clocks are off, whose heartbeats move or stand still."""

    offsets_ms: dict[str, int]
    dead: frozenset[str] = frozenset()
    now_ms: int = NOW_MS
    slept_s: list[float] = field(default_factory=list)

    def clock(self) -> int:
        return self.now_ms

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_ms += round(seconds * 1000)

    def read(self) -> list[Readiness]:
        return [
            Readiness(
                name,
                "b1",
                "gateway",
                "ready",
                "",
                1,
                (NOW_MS if name in self.dead else self.now_ms) + offset_ms,
            )
            for name, offset_ms in self.offsets_ms.items()
        ]

    def living(self) -> list[str]:
        return [row.replica_id for row in seen_living(self.read, self.clock, self.sleep)]


def test_one_look_is_enough_where_all_reported_lately() -> None:
    """The usual status waits for nothing."""
    store = Store({"a": 0, "b": -FRESH_MS + 1})
    assert store.living() == ["a", "b"]
    assert store.slept_s == []


def test_a_replica_with_a_wrong_clock_is_shown_once_its_heartbeat_moves() -> None:
    """As it wrote it, by its own clock."""
    store = Store({"a": 0, "b": 3_600_000})
    rows = seen_living(store.read, store.clock, store.sleep)
    assert [row.replica_id for row in rows] == ["a", "b"]
    assert rows[1].heartbeat_ms == store.now_ms + 3_600_000
    assert store.slept_s == [LOOK_S]


def test_a_dead_replica_is_waited_for_a_moment_and_not_shown() -> None:
    """Nothing moves its heartbeat."""
    store = Store({"a": 0, "b": -2 * FRESH_MS}, frozenset({"b"}))
    assert store.living() == ["a"]
    assert sum(store.slept_s) == STATUS_LOOKS_S


def test_nobody_is_nobody() -> None:
    """A store without rows is not looked at twice."""
    store = Store({})
    assert store.living() == []
    assert store.slept_s == []
