"""Which evidence is one rollout's own: no users of others, no outcome of before its first user."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from cluster.rollouts.deciding.rollout_record import Phase, Rollout
from cluster.rollouts.driving.evidence_source import EvidenceSource
from recsys.stores.evidence.evidence_sums import (
    Coverage,
    LatencyHistogram,
    UserColumns,
    VariantEvidence,
)
from recsys.stores.evidence.evidence_tables import HOUR_MS, MEASURES

NOW_MS = 500_000 * HOUR_MS + 1_234
ROLLOUT = Rollout(
    "r1",
    "b2",
    "b1",
    "p",
    (0.1,),
    ("b1",),
    ("b2", "b1"),
    NOW_MS,
    1,
    NOW_MS,
    phase=Phase.CANARY,
    opened_ms=NOW_MS,
)
SUMS = dict.fromkeys(MEASURES, 0)


def an_arm(
    bundle_id: str, variant: str, experiment: str, n: int, slates: int = 0
) -> VariantEvidence:
    """An arm with `n` failed requests and `n` answers of 10 ms."""
    return VariantEvidence(
        bundle_id,
        variant,
        experiment,
        SUMS | {"slates": slates},
        {},
        {(500, "boom"): n} if n else {},
        LatencyHistogram({24: n} if n else {}),
        LatencyHistogram({}),
    )


def users(*rows: tuple[int, tuple[str, str, str], int]) -> UserColumns:
    """Rows of user, arm and slates."""
    arms = tuple(dict.fromkeys(row[1] for row in rows))
    return UserColumns(
        np.array([row[0] for row in rows], np.int64),
        np.array([arms.index(row[1]) for row in rows], np.int64),
        arms,
        {name: np.array([row[2] for row in rows], np.int64) for name in MEASURES},
    )


@dataclass
class Reader:
    """An evidence store of the test's own, which counts its reads."""

    arms: list[VariantEvidence] = field(default_factory=list)
    now: UserColumns = field(default_factory=users)
    before: UserColumns = field(default_factory=users)
    asked: list[tuple[Any, ...]] = field(default_factory=list)

    def by_variant(
        self, bundle_ids: Collection[str], since_ms: int, until_ms: int
    ) -> list[VariantEvidence]:
        """The arms of these bundles."""
        self.asked.append(("arms", sorted(bundle_ids), since_ms))
        return [arm for arm in self.arms if arm.bundle_id in bundle_ids]

    def per_user(
        self, bundle_ids: Collection[str] | None, since_ms: int, until_ms: int
    ) -> UserColumns:
        """Users since the opening, or before it."""
        self.asked.append(("users", bundle_ids is None, until_ms > NOW_MS))
        return self.before if bundle_ids is None else self.now

    def coverage(self) -> Coverage:
        """How far the log is counted."""
        return Coverage(NOW_MS, {})


@dataclass
class Clock:
    """A clock that stands."""

    now_ms: int = NOW_MS

    def __call__(self) -> int:
        """The time."""
        return self.now_ms


def a_source(reader: Reader, clock: Clock) -> EvidenceSource:
    """The source over a reader of the test."""
    return EvidenceSource(reader, clock)  # type: ignore[arg-type]


def test_outcomes_and_latencies_of_other_rollouts_of_the_bundle_do_not_count() -> None:
    """Not those of before, and not those that come late while this one runs."""
    reader = Reader([an_arm("b2", "canary", "r0", 5), an_arm("b1", "baseline", "r0", 3)])
    source = a_source(reader, Clock())
    source.check()
    fresh = source.samples(ROLLOUT)
    assert [arm.counts["errors"] for arm in fresh.values()] == [0, 0]
    reader.arms = [
        an_arm("b2", "canary", "r0", 9),
        an_arm("b2", "canary", "r1", 4, slates=2),
        an_arm("b1", "baseline", "r0", 3),
        an_arm("b1", "stable", "", 70),
    ]
    samples = source.samples(ROLLOUT)
    assert samples["canary"].counts["errors"] == 4
    assert samples["canary"].counts["slates"] == 2
    assert samples["canary"].latency.counts == {24: 4}
    assert (samples["baseline"].counts["errors"], samples["baseline"].latency.n) == (0, 0)
    hours = {row[2] for row in reader.asked if row[0] == "arms"}
    assert hours == {NOW_MS - 1_234 - HOUR_MS}


def test_an_opening_that_an_earlier_release_recorded_is_not_taken_off() -> None:
    """It counted other rollouts of the bundle too, which this one's evidence no longer holds."""
    reader = Reader([an_arm("b2", "canary", "r1", 4)])
    before = {"outcomes": [[500, "boom", 9]], "served": [[24, 9]], "failed": []}
    opening = {"since_ms": NOW_MS, "arms": {"canary": before}}
    old = Rollout.from_json(ROLLOUT.to_json() | {"opening": opening})
    assert old == ROLLOUT
    assert a_source(reader, Clock()).samples(old)["canary"].counts["errors"] == 4


def test_users_are_those_of_this_rollout_and_their_past_is_any_other_arm() -> None:
    """Also that of the day on which it began."""
    mine, other, plain = ("b2", "canary", "r1"), ("b2", "canary", "r0"), ("b1", "stable", "")
    reader = Reader(
        now=users((1, mine, 4), (2, other, 9)),
        before=users((1, plain, 7), (1, other, 1), (1, mine, 4), (3, plain, 5)),
    )
    canary = a_source(reader, Clock()).samples(ROLLOUT)["canary"]
    assert canary.n_users == 1
    assert canary.users["slates"].tolist() == [4.0]
    assert canary.before is not None
    assert canary.before["slates"].tolist() == [8.0]


def test_users_are_read_again_after_a_while_and_at_a_new_step() -> None:
    """They are many; the past is read once for a step."""
    reader, clock = Reader(), Clock()
    source = a_source(reader, clock)

    def n_reads() -> tuple[int, int]:
        kinds = [row[1] for row in reader.asked if row[0] == "users"]
        return kinds.count(False), kinds.count(True)

    source.samples(ROLLOUT)
    clock.now_ms += 1_000
    source.samples(ROLLOUT)
    assert n_reads() == (1, 1)
    clock.now_ms += 1_500
    source.samples(ROLLOUT)
    assert n_reads() == (2, 1)
    source.samples(replace(ROLLOUT, step=1))
    assert n_reads() == (3, 2)


def test_a_rollout_without_evidence_has_two_empty_slices() -> None:
    """Which no judge passes."""
    samples = a_source(Reader(), Clock()).samples(ROLLOUT)
    assert {name: arm.n_users for name, arm in samples.items()} == {"canary": 0, "baseline": 0}
    assert samples["canary"].counts["requests"] == pytest.approx(0.0)
