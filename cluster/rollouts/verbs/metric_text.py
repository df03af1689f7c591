"""Numbers and durations as people read them. Pure; None is a number nobody knows."""

from __future__ import annotations

UNKNOWN = "-"


def value_text(value: float | None) -> str:
    """A metric's value with four digits."""
    return UNKNOWN if value is None else f"{value:,.4g}"


def effect_text(effect: float | None, *, is_rate: bool) -> str:
    """A change of the canary from the baseline: percent of it, for rates percentage points."""
    if effect is None:
        return UNKNOWN
    return f"{effect * 100:+.2f} {'pp' if is_rate else '%'}"


def interval_text(low: float | None, high: float | None, *, is_rate: bool) -> str:
    """An interval of a change; an end nobody knows is open."""
    ends = [UNKNOWN if end is None else f"{end * 100:+.2f}" for end in (low, high)]
    if ends == [UNKNOWN, UNKNOWN]:
        return UNKNOWN
    return f"[{ends[0]}, {ends[1]}] {'pp' if is_rate else '%'}"


def margin_text(margin: float, better: str, *, is_rate: bool) -> str:
    """The loss that is still allowed, in the direction in which it is one."""
    sign = "-" if better == "higher" else "+"
    return f"{sign}{margin * 100:g} {'pp' if is_rate else '%'}"


def duration_text(seconds: float) -> str:
    """A duration for people, such as `45 s`, `12 min` or `2.5 d`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5_400:
        return f"{seconds / 60:.0f} min"
    if seconds < 129_600:
        return f"{seconds / 3_600:.1f} h"
    return f"{seconds / 86_400:.1f} d"
