"""What simulated traffic is like, and what a simulated canary does to it. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from recsys.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TrafficShape:
    """The users of a place and what they do when nothing is changed."""

    requests_per_minute: float = 600.0
    users: int = 20_000
    """Who come back at all; their slices are what a plan's shares are of."""
    activity_skew: float = 1.0
    """Sigma of the lognormal that users' rates of requests come from; 0 is all alike."""
    ctr: float = 0.1
    """Chance that a slate is engaged with, over all users."""
    taste_skew: float = 0.5
    """Sigma of the logistic-normal that users' own chances come from."""
    conversion: float = 0.1
    """Chance that an engagement is a purchase."""
    value_skew: float = 1.0
    """Sigma of the lognormal, of mean 1, that purchases' values come from."""
    daily_drift: float = 0.0
    """By which share the day's best hour is above its mean, in requests and in engagements."""
    error_rate: float = 0.0005
    p50_ms: float = 20.0
    latency_skew: float = 0.5
    """Sigma of the lognormal of latencies."""
    requests_per_session: float = 4.0
    items_per_slate: int = 20
    past_requests: float = 0.0
    """Requests per user before the rollout, on average; what was there before is taken out."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What the canary changes; all 0 is an A/A rollout."""

    ctr: float = 0.0
    """Relative change of the chance of an engagement."""
    value: float = 0.0
    """Relative change of a purchase's value."""
    latency: float = 0.0
    """Relative change of every latency."""
    error_rate: float = 0.0
    """Added to the share of failed requests."""

    @property
    def text(self) -> str:
        """The effect as it is asked for; `none` for an A/A rollout."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return ",".join(f"{name}={value:+g}" for name, value in named.items() if value) or "none"


def parse_effect(text: str) -> Effect:
    """The effect of a text such as `ctr=-0.05,error_rate=0.02`.

    Raises:
        ConfigError: a name or a value that cannot be used.
    """
    names = [field.name for field in fields(Effect)]
    values: dict[str, float] = {}
    for part in text.split(","):
        name, _, said = part.strip().partition("=")
        try:
            value = float(said)
        except ValueError:
            value = math.nan
        least = 0.0 if name == "error_rate" else -1.0
        if name not in names or not least <= value < 1_000:
            raise ConfigError(
                f"effect is '{part.strip()}', expected NAME=CHANGE with a name of "
                f"{', '.join(names)} and a change of at least -1 (error_rate: 0 to 1); "
                "use for example '--effect ctr=-0.05'"
            )
        values[name] = value
    return Effect(**values)


def check_shape(shape: TrafficShape) -> TrafficShape:
    """The shape, if it can be simulated.

    Raises:
        ConfigError: with every value that cannot be used.
    """
    problems = [*_problems(shape)]
    if problems:
        raise ConfigError(f"simulated traffic: {'; '.join(problems)}; change the options")
    return shape


def changed(shape: TrafficShape, values: Mapping[str, Any]) -> TrafficShape:
    """The shape with other values where they are not None, checked.

    Raises:
        ConfigError: a value that cannot be used.
    """
    known = {field.name: getattr(shape, field.name) for field in fields(shape)}
    given = {name: value for name, value in values.items() if value is not None}
    return check_shape(TrafficShape(**known | given))


def _problems(shape: TrafficShape) -> list[str]:
    found = []
    for name in ("requests_per_minute", "p50_ms"):
        if not 0.0 < getattr(shape, name) < math.inf:
            found.append(f"{name} is {getattr(shape, name)}, expected above 0")
    for name in ("ctr", "conversion", "error_rate", "daily_drift"):
        if not 0.0 <= getattr(shape, name) < 1.0:
            found.append(f"{name} is {getattr(shape, name)}, expected 0 to below 1")
    for name in ("activity_skew", "taste_skew", "value_skew", "latency_skew"):
        if not 0.0 <= getattr(shape, name) <= 4.0:
            found.append(f"{name} is {getattr(shape, name)}, expected 0 to 4")
    if not 10 <= shape.users <= 10_000_000:
        found.append(f"users is {shape.users}, expected 10 to 10,000,000")
    if not shape.requests_per_session >= 1.0:
        found.append(f"requests_per_session is {shape.requests_per_session}, expected 1 or more")
    return found
