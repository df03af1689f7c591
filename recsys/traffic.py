"""The traffic plan: which bundle answers which user. Pure; knows neither stores nor replicas."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import xxhash

from recsys.errors import ConfigError

STABLE = "stable"
CANARY = "canary"
BASELINE = "baseline"
VARIANTS = (CANARY, STABLE, BASELINE)
"""In the order they lie along the hash line: the canary grows from one end, the baseline from the
other, so a growing share only ever takes users from stable."""

SHARE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True)
class Arm:
    """One variant of a plan: the bundle that answers and its share of users, 0-1."""

    variant: str
    bundle_id: str
    share: float


@dataclass(frozen=True, slots=True)
class TrafficPlan:
    """Shares of users per bundle; a plan of a higher epoch replaces one of a lower."""

    epoch: int
    salt: str
    arms: tuple[Arm, ...]

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError(f"traffic plan of epoch {self.epoch}: {'; '.join(problems)}")

    @classmethod
    def single(cls, bundle_id: str, epoch: int, salt: str) -> TrafficPlan:
        """The plan that gives every user to one stable bundle."""
        return cls(epoch=epoch, salt=salt, arms=(Arm(STABLE, bundle_id, 1.0),))

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """The bundles that may answer, each once, in the order of the arms."""
        return tuple(dict.fromkeys(arm.bundle_id for arm in self.arms))

    def assign(self, user_id: str) -> Arm:
        """The user's arm: always the same one under the same salt and shares.

        With the salt unchanged, a growing canary keeps the users it has and takes new ones.
        """
        digest = xxhash.xxh64_intdigest((self.salt + user_id).encode("utf-8", "surrogatepass"))
        place = (digest >> 11) * 2.0**-53  # 53 bits, so that it stays below 1
        by_variant = {arm.variant: arm for arm in self.arms if arm.share > 0.0}
        in_order = [by_variant[variant] for variant in VARIANTS if variant in by_variant]
        edge = 0.0
        for arm in in_order:
            edge += arm.share
            if place < edge:
                return arm
        return in_order[-1]  # shares that sum to a hair below 1

    def experiment_of(self, variant: str) -> str | None:
        """What slates of a variant are compared under; None for stable, which nobody compares."""
        return None if variant == STABLE else self.salt

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return {"epoch": self.epoch, "salt": self.salt, "arms": [asdict(arm) for arm in self.arms]}

    @classmethod
    def from_json(cls, document: Mapping[str, Any] | str | bytes) -> TrafficPlan:
        """The plan of a JSON object, or of its text.

        Raises:
            ConfigError: it is no valid plan.
        """
        try:
            fields = json.loads(document) if isinstance(document, str | bytes) else document
            arms = tuple(
                Arm(str(arm["variant"]), str(arm["bundle_id"]), float(arm["share"]))
                for arm in fields["arms"]
            )
            return cls(epoch=int(fields["epoch"]), salt=str(fields["salt"]), arms=arms)
        except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise ConfigError(
                f"traffic plan {document!r} cannot be read ({error!r}); expected epoch, salt and "
                "arms of variant, bundle_id and share; write the plan again"
            ) from error


def _problems(plan: TrafficPlan) -> list[str]:
    variants = [arm.variant for arm in plan.arms]
    shares = [arm.share for arm in plan.arms]
    problems = []
    if len(set(variants)) != len(variants):
        problems.append(f"variants {variants} repeat; expected each at most once")
    if unknown := sorted(set(variants) - set(VARIANTS)):
        problems.append(f"variants {unknown} are not known; expected {', '.join(VARIANTS)}")
    if nameless := [arm.variant for arm in plan.arms if not arm.bundle_id]:
        problems.append(f"variants {nameless} name no bundle; expected a bundle id each")
    if not all(share >= 0.0 for share in shares) or (
        not math.isclose(sum(shares), 1.0, rel_tol=0.0, abs_tol=SHARE_TOLERANCE)
    ):
        problems.append(f"shares {shares} sum to {sum(shares)}; expected 0 or more, summing to 1")
    return problems
