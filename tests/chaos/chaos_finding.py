"""What a failure run's verdict is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was checked."""

    what: str
    value: str
    holds: bool


def none_of(what: str, n: int) -> Finding:
    """That there is none of what must not be."""
    return Finding(what, f"{n:,}", n == 0)


def n_different(found: Mapping[str, object], wanted: Mapping[str, object]) -> int:
    """Keys with another value, or with none on one side."""
    return sum(found.get(key) != wanted.get(key) for key in found.keys() | wanted.keys())
