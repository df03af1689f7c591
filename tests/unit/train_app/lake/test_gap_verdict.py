"""Which lost records still alarm somebody."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.stores.control.acknowledged_gaps import AcknowledgedGap
from train_app.lake.archiving.gap_verdict import (
    GapVerdict,
    Range,
    acknowledge,
    judge_gaps,
    known_gaps,
)

RANGES = st.lists(
    st.tuples(st.integers(0, 30), st.integers(1, 8)).map(lambda pair: (pair[0], sum(pair))),
    max_size=6,
)


def known(partition: int, first: int, end: int) -> AcknowledgedGap:
    """Offsets that somebody has acknowledged."""
    return AcknowledgedGap(partition, first, end, 1_790_000_000_000, "ann", "moved the topic")


def offsets(ranges: list[Range]) -> list[int]:
    """Every offset of some ranges, as often as it is in one."""
    return [offset for first, end in ranges for offset in range(first, end)]


@settings(deadline=None, max_examples=50)
@given(RANGES, RANGES)
def test_what_is_left_is_every_offset_that_nobody_knows_once(
    gaps: list[Range], acknowledged: list[Range]
) -> None:
    """However gaps and acknowledgements overlap; another partition's do not count."""
    rows = [known(1, first, end) for first, end in acknowledged]
    verdict = judge_gaps({1: gaps}, [*rows, known(2, 0, 100)])
    left = offsets(list(verdict.unknown.get(1, ())))
    assert left == sorted(set(offsets(gaps)) - set(offsets(acknowledged)))
    assert verdict.n_unknown == len(left)
    assert (verdict.alarm() is None) == (not left)


def test_an_acknowledgement_is_kept_with_who_and_why(tmp_path: Path) -> None:
    """Later checks find it; a new gap alarms again."""
    url = f"sqlite:///{tmp_path}/control.sqlite"
    found = known_gaps(url, {0: [(3, 5)], 2: [(7, 8)]})
    assert found.n_unknown == 3
    assert "--acknowledge-gaps" in str(found.alarm())
    after = acknowledge(url, found, "the disk of broker 2")
    assert after.alarm() is None
    later = known_gaps(url, {0: [(3, 5), (9, 11)], 2: [(7, 8)]})
    assert later.unknown == {0: [(9, 11)]}
    assert [gap.reason for gap in later.acknowledged] == ["the disk of broker 2"] * 2
    lost, *acknowledged = later.lines()
    assert lost == "lost: 2 records of partition 0, offsets 9 to 10"
    assert all(line.startswith("lost, acknowledged by ") for line in acknowledged)


def test_a_reason_has_to_be_given(tmp_path: Path) -> None:
    """Whoever looks in a year wants to know why."""
    with pytest.raises(ConfigError, match="the reason is empty"):
        acknowledge(f"sqlite:///{tmp_path}/control.sqlite", GapVerdict({}, ()), "  ")
