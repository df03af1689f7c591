"""What evidence stores of earlier releases lack, until a writer of this one opens them.

Knows names alone; who reads takes what is lacking for empty or 0, `evidence_layout` adds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from recsys.stores.evidence.evidence_tables import TRAIT_MEASURES

FIRST, SECOND = "1", "2"
_TRAITS = {"evidence_hours": TRAIT_MEASURES, "evidence_users": TRAIT_MEASURES}
_EXPERIMENT = {"evidence_outcomes": ("experiment",), "evidence_latencies": ("experiment",)}
_LACKING: Mapping[str, Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {FIRST: {**_EXPERIMENT, **_TRAITS}, SECOND: _TRAITS}
)


def lacking(layout: str | None) -> Mapping[str, tuple[str, ...]]:
    """By table the columns that a store of this layout lacks; shadows are tables of their own."""
    return _LACKING.get(layout or "", {})
