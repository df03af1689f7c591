"""What copies may cost users, and whether they do: round by round against no copies. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

NO_COPIES = 0.0
ANSWERED = "200"


class Round(NamedTuple):
    """What users saw of one round."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float


@dataclass(frozen=True, slots=True)
class Bar:
    """How much worse a figure may be than without copies."""

    load: str
    figure: str
    limit: float
    """Of its ratio to the same without copies, in the median round."""
    is_least: bool = False
    """The ratio may not be below the limit, rather than not above it."""

    def holds(self, ratio: float) -> bool:
        """Whether a ratio is within it; one that is not known is not."""
        return ratio >= self.limit if self.is_least else ratio <= self.limit


BARS = (
    Bar("overload", "requests_per_s", 0.9, is_least=True),
    Bar("overload", "p99_ms", 1.25),
    Bar("moderate", "p50_ms", 1.1),
    Bar("moderate", "p99_ms", 1.25),
)
"""A shadow never slows the live answer, as far as rounds of seconds can tell."""


@dataclass(slots=True)
class Seen:
    """What users saw, and what became of the copies."""

    latencies_ms: list[float] = field(default_factory=list)
    rounds: list[Round] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    copies: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """Requests per second and p99 in ms (means over rounds), p50, statuses and copies."""
        return {
            "requests_per_s": round(float(np.mean([one.requests_per_s for one in self.rounds])), 1),
            "p50_ms": round(float(np.percentile(self.latencies_ms, 50)), 2),
            "p99_ms": round(float(np.mean([one.p99_ms for one in self.rounds])), 2),
            "statuses": dict(self.statuses),
            "copies": dict(self.copies),
        }


@dataclass(frozen=True, slots=True)
class Ratios:
    """A figure over the same without copies, over rounds."""

    median: float
    lowest: float
    highest: float


def in_turn(n_rounds: int, found: dict[float, Seen]) -> Iterator[tuple[float, Seen]]:
    """Every share once a round, each round beginning with the next: none is always first."""
    shares = list(found.items())
    for n in range(n_rounds):
        first = n % len(shares)
        yield from shares[first:] + shares[:first]


def beside(found: Mapping[float, Seen]) -> dict[float, dict[str, Ratios]]:
    """Each share's figures over those without copies in the same round, by share and figure."""
    plain = np.asarray(found[NO_COPIES].rounds)
    ratios = {}
    for share, seen in found.items():
        ratio = np.asarray(seen.rounds) / plain
        ratios[share] = {
            name: Ratios(*(round(float(pick(column)), 3) for pick in (np.median, np.min, np.max)))
            for name, column in zip(Round._fields, ratio.T, strict=True)
        }
    return ratios


def missed(found: Mapping[str, Mapping[float, Seen]]) -> list[str]:
    """A sentence for everything that must hold of the copies and does not, by load and share."""
    faults = []
    for load, by_share in found.items():
        bars = [bar for bar in BARS if bar.load == load]
        ratios = beside(by_share)
        for share, seen in by_share.items():
            where = f"{load}, {share:.0%} copied"
            faults += [f"{where}: {fault}" for fault in _unlike(seen)]
            if share == NO_COPIES:
                continue
            if not any(seen.copies.values()):
                faults.append(f"{where}: no request was copied, so nothing was measured")
            for bar in bars:
                ratio = ratios[share][bar.figure]
                if not bar.holds(ratio.median):
                    faults.append(f"{where}: {_beyond(bar, ratio)}")
    if not any(seen.copies[ANSWERED] for by_share in found.values() for seen in by_share.values()):
        faults.append("no copy was answered under any load, so nothing was measured")
    return faults


def _unlike(seen: Seen) -> Iterator[str]:
    n_failed = seen.statuses.total() - seen.statuses[200]
    if n_failed or not seen.statuses:
        yield f"{n_failed} of {seen.statuses.total()} users' requests failed, expected none"


def _beyond(bar: Bar, ratio: Ratios) -> str:
    return (
        f"{bar.figure} is {ratio.median:g} times that without copies in the median round "
        f"({ratio.lowest:g} to {ratio.highest:g}), expected at "
        f"{'least' if bar.is_least else 'most'} {bar.limit:g}"
    )
