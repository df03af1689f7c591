"""The sides of an experiment, made of what the operator named. Changes no control store."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from recsys.errors import BundleError, BundleNotFound, ConfigError, DataRefused
from recsys.evidence.experiment_design import BOTH, RETRIEVER, SCORER, TREATMENT
from recsys.experiment_plan import CONTROL, ExperimentArm
from recsys.settings import OrderingSettings


def bundle_sides(stable_id: str, treatment_id: str) -> tuple[ExperimentArm, ...]:
    """Stable beside the treatment, half of the users each."""
    return (
        ExperimentArm(CONTROL, 0.5, stable_id),
        ExperimentArm(TREATMENT, 0.5, treatment_id),
    )


def ordering_sides(ordering: Mapping[str, Any]) -> tuple[ExperimentArm, ...]:
    """The bundle's own ordering beside the changed one, half of the users each."""
    return (
        ExperimentArm(CONTROL, 0.5),
        ExperimentArm(TREATMENT, 0.5, ordering=dict(ordering)),
    )


def factorial_sides(
    stable_id: str, treatment_id: str, compose: Callable[[str, str], str]
) -> tuple[ExperimentArm, ...]:
    """The four sides of a 2 x 2, a quarter of the users each.

    Args:
        compose: the id of a bundle with the retriever of the first and the scorer of the second.

    Raises:
        DataRefused: the parts do not fit together.
        ConfigError: both bundles have the same scorer or the same retriever.
    """
    try:
        retriever_id = compose(treatment_id, stable_id)
        scorer_id = compose(stable_id, treatment_id)
    except BundleNotFound:
        raise
    except BundleError as error:
        raise DataRefused(
            f"a 2 x 2 of {stable_id} and {treatment_id} needs bundles of parts of both, and they "
            f"do not fit: {error}; compare the bundles whole, without --factorial"
        ) from error
    ids = (stable_id, retriever_id, scorer_id, treatment_id)
    if len(set(ids)) < len(ids):
        raise ConfigError(
            f"a 2 x 2 of {stable_id} and {treatment_id} has the same bundle on two sides "
            f"({', '.join(ids)}), expected bundles that differ in retriever and scorer; compare "
            "them whole, without --factorial"
        )
    names = (CONTROL, RETRIEVER, SCORER, BOTH)
    return tuple(ExperimentArm(name, 0.25, one) for name, one in zip(names, ids, strict=True))


def ordering_of(pairs: Sequence[str], settings_file: Path | None) -> dict[str, Any]:
    """The ordering settings that the treatment changes, checked.

    Args:
        pairs: `KEY=VALUE`, with keys of `ordering`.
        settings_file: TOML with a table `ordering`.

    Raises:
        ConfigError: a key is none of them, or a value does not fit.
    """
    found: dict[str, Any] = {}
    if settings_file is not None:
        found |= _of_file(settings_file)
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals:
            raise ConfigError(f"--ordering {pair!r} has no value, expected KEY=VALUE")
        found[key.strip().removeprefix("ordering.")] = _value(text.strip())
    try:
        checked = OrderingSettings.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise ConfigError(
            f"ordering.{key} cannot be {first['input']!r}: {first['msg'].lower()}; expected keys "
            f"{', '.join(OrderingSettings.model_fields)}"
        ) from error
    return {key: getattr(checked, key) for key in found}


def _of_file(path: Path) -> dict[str, Any]:
    try:
        document = tomllib.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"settings {path} cannot be read: {error}; expected TOML") from error
    others = [key for key in document if key != "ordering"]
    if others or not isinstance(document.get("ordering"), dict):
        raise ConfigError(
            f"settings {path} have {', '.join(others) or 'no [ordering]'}, expected [ordering] "
            "alone: what else differs between users is a bundle of its own, see --treatment"
        )
    return dict(document["ordering"])


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
