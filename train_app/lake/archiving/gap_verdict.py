"""Whether lost records still have to alarm somebody, and keeping that an operator knows of them.

The only writer of acknowledged gaps.
"""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from recsys.errors import ConfigError, StoreError
from recsys.stores.control.acknowledged_gaps import AcknowledgedGap, AcknowledgedGaps
from train_app.lake.upkeep.offset_check import MAX_EXAMPLES

Range = tuple[int, int]
"""Offsets from and to, the last one exclusive."""


@dataclass(frozen=True, slots=True)
class GapVerdict:
    """The gaps of a lake, told apart."""

    unknown: Mapping[int, Sequence[Range]]
    """By partition: what nobody has acknowledged."""
    acknowledged: Sequence[AcknowledgedGap]

    @property
    def n_unknown(self) -> int:
        """Lost records that nobody has acknowledged."""
        return sum(end - first for found in self.unknown.values() for first, end in found)

    def as_dict(self) -> dict[str, Any]:
        """Both as a JSON document."""
        return {
            "unacknowledged_gaps": {p: list(map(list, found)) for p, found in self.unknown.items()},
            "acknowledged_gaps": [asdict(gap) for gap in self.acknowledged],
        }

    def lines(self) -> list[str]:
        """Both for a person."""
        said = [f"lost: {_named(p, found)}" for p, found in self.unknown.items()]
        for gap in self.acknowledged:
            day = datetime.fromtimestamp(gap.acknowledged_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M")
            place = _named(gap.partition, [(gap.first_offset, gap.end_offset)])
            said.append(f"lost, acknowledged by {gap.who} on {day} UTC ({gap.reason}): {place}")
        return said

    def alarm(self) -> StoreError | None:
        """What the check ends with where somebody has to look."""
        if not self.unknown:
            return None
        return StoreError(
            f"{self.n_unknown:,} records were gone from the log before they were read, expected"
            " none; see 'Records were missed' in docs/when-something-is-wrong.md, then say"
            " 'cluster lake check --acknowledge-gaps REASON'"
        )


def judge_gaps(
    gaps: Mapping[int, Sequence[Range]], acknowledged: Sequence[AcknowledgedGap]
) -> GapVerdict:
    """Take away from the gaps what somebody has acknowledged."""
    unknown: dict[int, list[Range]] = {}
    for partition, found in gaps.items():
        known = [
            (gap.first_offset, gap.end_offset) for gap in acknowledged if gap.partition == partition
        ]
        rest = [part for gap in _merged(found) for part in _without(gap, known)]
        if rest:
            unknown[partition] = rest
    return GapVerdict(unknown, acknowledged)


def known_gaps(url: str, gaps: Mapping[int, Sequence[Range]]) -> GapVerdict:
    """The verdict with what stands in the control store.

    Raises:
        StoreError: the store is away.
    """
    with closing(AcknowledgedGaps(url)) as store:
        return judge_gaps(gaps, store.read())


def acknowledge(url: str, verdict: GapVerdict, reason: str) -> GapVerdict:
    """Keep that somebody knows of all gaps there are; the verdict after it.

    Raises:
        ConfigError: there is no reason.
        StoreError: the store is away; nothing was kept.
    """
    if not reason.strip():
        raise ConfigError(
            "the reason is empty, expected why the gaps may stay; say it in a few words"
        )
    now_ms, who = time.time_ns() // 1_000_000, _who()
    added = [
        AcknowledgedGap(partition, first, end, now_ms, who, reason.strip())
        for partition, found in verdict.unknown.items()
        for first, end in found
    ]
    with closing(AcknowledgedGaps(url)) as store:
        store.add(added)
    return GapVerdict({}, [*verdict.acknowledged, *added])


def _merged(ranges: Iterable[Range]) -> list[Range]:
    """The ranges in order, those that meet as one: a gap may be noted in parts, and twice."""
    merged: list[Range] = []
    for first, end in sorted(ranges):
        if merged and first <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((first, end))
    return merged


def _without(gap: Range, known: Iterable[Range]) -> list[Range]:
    """What of a range no known one covers."""
    first, end = gap
    rest = []
    for known_first, known_end in _merged(known):
        if known_first > first and known_first < end:
            rest.append((first, known_first))
        if known_end > first:
            first = max(first, min(known_end, end)) if known_first < end else first
    if first < end:
        rest.append((first, end))
    return rest


def _named(partition: int, found: Sequence[Range]) -> str:
    named = [f"{a:,}" if b == a + 1 else f"{a:,} to {b - 1:,}" for a, b in found[:MAX_EXAMPLES]]
    more = ", ..." if len(found) > MAX_EXAMPLES else ""
    n_records = sum(b - a for a, b in found)
    return f"{n_records:,} records of partition {partition}, offsets {', '.join(named)}{more}"


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
