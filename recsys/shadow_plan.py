"""Which answers are asked for a second time from a bundle that nobody sees. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from recsys.errors import ConfigError


@dataclass(frozen=True, slots=True)
class ShadowPlan:
    """A bundle that gets copies of a share of the requests; its answers are recorded only."""

    shadow_id: str
    bundle_id: str
    share: float
    """Of all requests, above 0 up to 1."""

    def __post_init__(self) -> None:
        if not (self.shadow_id and self.bundle_id and 0.0 < self.share <= 1.0):
            raise ConfigError(
                f"shadow '{self.shadow_id}' of bundle '{self.bundle_id}' has share {self.share}, "
                "expected two names and a share above 0 and up to 1"
            )

    def copies(self, request_id: str) -> bool:
        """Whether this request is copied; a larger share copies those of a smaller one too."""
        text = (self.shadow_id + request_id).encode("utf-8", "surrogatepass")
        return bool((xxhash.xxh64_intdigest(text) >> 11) * 2.0**-53 < self.share)

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str) -> ShadowPlan:
        """The plan of a JSON object, or of its text.

        Raises:
            ConfigError: it is no valid plan.
        """
        try:
            fields = json.loads(document) if isinstance(document, str) else document
            return cls(str(fields["shadow_id"]), str(fields["bundle_id"]), float(fields["share"]))
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"shadow {document!r} cannot be read ({error!r}); expected shadow_id, bundle_id "
                "and share; stop it with 'cluster shadow stop' and start it again"
            ) from error
