"""Who lives and whose clock is off, told from heartbeats by foreign clocks."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.clock_skew import Beat, Skew, follow_beats, living_replicas, skewed

NOW_MS = 1_800_000_000_000


@dataclass(frozen=True)
class Row:
    """What a replica wrote."""

    replica_id: str
    heartbeat_ms: int


@settings(max_examples=50, deadline=None)
@given(st.integers(-30_000, 30_000), st.integers(1, 20))
def test_a_replica_lives_as_long_as_its_heartbeat_moves(offset_ms: int, n_looks: int) -> None:
    """Whatever its clock says; and it is dead once it stands still, ahead or behind."""
    beats: dict[str, Beat] = {}
    for look in range(n_looks + 1):
        now_ms = NOW_MS + 1_000 * look
        beats = follow_beats(beats, [Row("r", now_ms + offset_ms)], now_ms)
        assert look == 0 or living_replicas(beats, now_ms) == {"r"}
    last = [Row("r", now_ms + offset_ms)]
    beats = follow_beats(beats, last, now_ms + 6_000)
    assert not living_replicas(beats, now_ms + 6_000)


def test_at_the_first_look_a_replicas_clock_is_believed() -> None:
    """A row that stands in the future is no proof of life, and soon none at all."""
    rows = [Row("fresh", NOW_MS - 4_000), Row("old", NOW_MS - 6_000), Row("ahead", NOW_MS + 60_000)]
    beats = follow_beats({}, rows, NOW_MS)
    assert living_replicas(beats, NOW_MS) == {"fresh"}
    later = follow_beats(beats, rows, NOW_MS + 2_000)
    assert not living_replicas(later, NOW_MS + 2_000)


def test_who_said_good_bye_or_has_no_row_is_not_living() -> None:
    """A heartbeat of 0 is no sign of life, though it is a change."""
    beats = follow_beats({}, [Row("a", NOW_MS), Row("b", NOW_MS)], NOW_MS)
    beats = follow_beats(beats, [Row("a", 0)], NOW_MS + 1_000)
    assert not living_replicas(beats, NOW_MS + 1_000)
    assert "b" not in beats


def test_clocks_that_are_off_are_named_of_living_replicas_alone() -> None:
    """With how far; one that stands still is dead and not skewed."""
    before = [Row(name, NOW_MS + offset) for name, offset in OFFSETS.items()]
    now = [Row(row.replica_id, row.heartbeat_ms + 1_000) for row in before]
    now += [Row("new", NOW_MS + 90_000)]
    still = [Row("still", NOW_MS + 90_000)]
    assert skewed([*before, *still], [*now, *still], NOW_MS + 1_000) == [
        Skew("ahead", 60_000),
        Skew("behind", -60_000),
    ]


def test_a_replicas_newest_row_speaks_for_it() -> None:
    """A replica has a row per bundle, some of which are written no more."""
    before = [Row("r", NOW_MS - 90_000), Row("r", NOW_MS - 1_000)]
    now = [Row("r", NOW_MS - 90_000), Row("r", NOW_MS)]
    assert skewed(before, now, NOW_MS) == []


OFFSETS = {"ahead": 60_000, "behind": -60_000, "right": 0, "slow": -4_000, "near": 1_500}
