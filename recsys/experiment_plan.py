"""Which user takes part in which experiment, and on which side. Pure.

An experiment takes a slice of the users of its layer. Slices of one layer never overlap; those of
two layers cut the users independently. Users of the holdout take part in none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import xxhash

from recsys.errors import ConfigError

CONTROL = "control"
_TOLERANCE = 1e-9


class Layer(StrEnum):
    """What the experiments of a layer may change; a user is in at most one of each."""

    BUNDLE = "bundle"
    """Which bundle answers."""
    ORDERING = "ordering"
    """How the answering bundle's candidates become a slate."""


@dataclass(frozen=True, slots=True)
class ExperimentArm:
    """One side of an experiment."""

    name: str
    """`control`, `treatment`, or one of the four sides of a 2 x 2."""
    share: float
    """Of the experiment's users, 0-1."""
    bundle_id: str = ""
    """What answers; empty in the ordering layer, where the bundle stays."""
    ordering: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `OrderingSettings` put over the bundle's own; empty in the bundle layer."""


@dataclass(frozen=True, slots=True)
class ExperimentPlan:
    """One running experiment as gateways follow it."""

    experiment_id: str
    layer: Layer
    begin: float
    """Its slice of the layer: users whose place is in [begin, begin + share)."""
    share: float
    arms: tuple[ExperimentArm, ...]

    def __post_init__(self) -> None:
        problems = _problems(self)
        if problems:
            raise ConfigError(f"experiment '{self.experiment_id}': {'; '.join(problems)}")

    @property
    def end(self) -> float:
        """Where its slice ends."""
        return self.begin + self.share

    def arm_of(self, user_id: str) -> ExperimentArm:
        """The side of a user of its slice: always the same one."""
        at, edge = place_of(self.experiment_id, user_id), 0.0
        for arm in self.arms:
            edge += arm.share
            if at < edge:
                return arm
        return self.arms[-1]  # shares that sum to a hair below 1


@dataclass(frozen=True, slots=True)
class Experiments:
    """All running experiments."""

    plans: tuple[ExperimentPlan, ...] = ()
    holdout: float = 0.0
    """Share of all users that take part in no experiment."""
    _layers: tuple[tuple[str, tuple[ExperimentPlan, ...]], ...] = field(
        init=False, repr=False, compare=False
    )
    """The salt and the plans of each layer in use."""

    def __post_init__(self) -> None:
        of = {layer: tuple(p for p in self.plans if p.layer is layer) for layer in Layer}
        layers = tuple((f"layer {layer}", plans) for layer, plans in of.items() if plans)
        object.__setattr__(self, "_layers", layers)

    def of_user(self, user_id: str) -> tuple[tuple[ExperimentPlan, ExperimentArm], ...]:
        """What a user takes part in, by layer.

        At most one experiment of each: where slices overlap all the same, the first.
        """
        if not self.plans or (self.holdout > 0.0 and place_of("holdout", user_id) < self.holdout):
            return ()
        found = []
        for salt, plans in self._layers:
            place = place_of(salt, user_id)
            for plan in plans:
                if plan.begin <= place < plan.end:
                    found.append((plan, plan.arm_of(user_id)))
                    break
        return tuple(found)

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """The bundles that may answer, each once."""
        ids = (arm.bundle_id for plan in self.plans for arm in plan.arms if arm.bundle_id)
        return tuple(dict.fromkeys(ids))


NO_EXPERIMENTS = Experiments()


def place_of(salt: str, user_id: str) -> float:
    """A user's place under a salt, uniform in [0, 1)."""
    text = f"{salt}\0{user_id}".encode("utf-8", "surrogatepass")
    return (xxhash.xxh64_intdigest(text) >> 11) * 2.0**-53


def plan_to_json(plan: ExperimentPlan) -> dict[str, Any]:
    """The plan as a JSON object."""
    return asdict(plan)


def plan_from_json(document: Mapping[str, Any] | str) -> ExperimentPlan:
    """The plan of a JSON object, or of its text.

    Raises:
        ConfigError: it is no valid plan.
    """
    try:
        fields = json.loads(document) if isinstance(document, str) else document
        arms = tuple(
            ExperimentArm(
                str(arm["name"]),
                float(arm["share"]),
                str(arm.get("bundle_id", "")),
                dict(arm.get("ordering", {})),
            )
            for arm in fields["arms"]
        )
        return ExperimentPlan(
            str(fields["experiment_id"]),
            Layer(fields["layer"]),
            float(fields["begin"]),
            float(fields["share"]),
            arms,
        )
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
        RecursionError,
    ) as error:
        raise ConfigError(
            f"experiment {document!r} cannot be read ({error!r}); expected experiment_id, layer, "
            "begin, share and arms; stop it with 'cluster experiment stop'"
        ) from error


def _problems(plan: ExperimentPlan) -> list[str]:
    problems = []
    names = [arm.name for arm in plan.arms]
    shares = [arm.share for arm in plan.arms]
    if not plan.experiment_id:
        problems.append("it has no name; expected one")
    if not (plan.begin >= 0.0 and plan.share > 0.0 and plan.end <= 1.0 + _TOLERANCE):
        problems.append(
            f"its slice is [{plan.begin}, {plan.end}); expected one within [0, 1] that holds users"
        )
    if len(names) < 2 or len(set(names)) != len(names):
        problems.append(f"its arms are {names}; expected two or more, each name once")
    if any(not share > 0.0 for share in shares) or abs(sum(shares) - 1.0) > _TOLERANCE:
        problems.append(f"shares {shares} sum to {sum(shares)}; expected above 0, summing to 1")
    for arm in plan.arms:
        if (plan.layer is Layer.BUNDLE) != bool(arm.bundle_id):
            problems.append(f"arm {arm.name} names bundle '{arm.bundle_id}' in layer {plan.layer}")
        if arm.ordering and plan.layer is not Layer.ORDERING:
            problems.append(f"arm {arm.name} changes the ordering in layer {plan.layer}")
    return problems
