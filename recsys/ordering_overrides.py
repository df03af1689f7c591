"""Ordering settings that an experiment puts over a bundle's own, as they travel with a batch.

Knows the settings and their bytes; neither experiments nor slates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from recsys.errors import ConfigError
from recsys.settings import OrderingSettings

NO_OVERRIDES = b""
OVERRIDES = "overrides"
"""The array of a batch that holds them, [n] uint8; absent where the bundle's own hold."""


def pack_overrides(ordering: Mapping[str, Any]) -> bytes:
    """Settings by name as UTF-8 JSON; equal ones have equal bytes, none has none.

    Raises:
        ConfigError: they are no settings of the ordering.
    """
    if not ordering:
        return NO_OVERRIDES
    try:
        checked = OrderingSettings.model_validate(dict(ordering))
    except (ValidationError, TypeError) as error:
        known = ", ".join(OrderingSettings.model_fields)
        raise ConfigError(
            f"ordering settings {dict(ordering)} cannot be used: {error}; expected some of {known}"
        ) from error
    named = checked.model_dump(include=set(ordering))
    return json.dumps(named, sort_keys=True).encode()


@lru_cache(maxsize=128)
def put_over(settings: OrderingSettings, overrides: bytes) -> OrderingSettings:
    """The policy with the overrides of `pack_overrides` put over a bundle's own settings.

    Raises:
        ConfigError: they are not such bytes.
    """
    if not overrides:
        return settings
    try:
        named = json.loads(overrides)
        return OrderingSettings.model_validate(settings.model_dump() | named)
    except (ValueError, TypeError) as error:
        raise ConfigError(
            f"ordering overrides {overrides[:200]!r} cannot be read: {error}; expected JSON of "
            "ordering settings; run one release"
        ) from error


def overrides_array(overrides: bytes) -> NDArray[np.uint8]:
    """The bytes as the array of a batch, [n]."""
    return np.frombuffer(overrides, np.uint8)
