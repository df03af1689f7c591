"""A rollout plan as a TOML file: read strictly, every error with its key and what was expected."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from cluster.rollouts.deciding.rollout_plan import (
    PLAN_NAMES,
    PlanStep,
    RolloutPlan,
    built_in,
    check_plan,
    resolved_rules,
)
from recsys.errors import ConfigError
from recsys.evidence.metric_rules import METRICS, MetricRule

T = TypeVar("T")
_VALUE_KEYS = (
    "alpha",
    "label_window_s",
    "shadow_requests",
    "shadow_share",
    "shadow_max_s",
    "on_shadow_timeout",
    "min_overlap",
)
_PLAN_KEYS = ("name", *_VALUE_KEYS, "steps", "metrics")
_STEP_KEYS = tuple(field.name for field in fields(PlanStep))
_RULE_KEYS = ("margin", "role", "winsorise")
"""What a plan may change of a metric; what it measures is the catalogue's."""


def plan_named(name: str) -> RolloutPlan:
    """A built-in plan by its name, or the plan of a TOML file by its path.

    Raises:
        ConfigError: there is no such plan or file, or it cannot be used.
    """
    if name in PLAN_NAMES:
        return built_in(name)
    path = Path(name)
    if path.suffix != ".toml" and not path.is_file():
        return built_in(name)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"rollout plan {path} cannot be read ({error}), expected a TOML file or one of "
            f"{', '.join(PLAN_NAMES)}; use '--plan standard'"
        ) from error
    return parse_plan(text, path.stem)


def parse_plan(text: str, name: str = "plan") -> RolloutPlan:
    """The plan of a TOML text.

    Args:
        name: what it is called where the text does not say.

    Raises:
        ConfigError: with every value that cannot be used.
    """
    where = f"rollout plan {name}"
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is no TOML ({error}); mend it and start again") from error
    problems = _unknown(document, _PLAN_KEYS, "")
    tables = document.get("steps", [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        problems.append(f"steps is {tables!r}, expected tables [[steps]]")
        tables = []
    if not tables:
        problems.append("steps is empty, expected at least one [[steps]] with a share")
    steps = [_step(table, number, problems) for number, table in enumerate(tables)]
    overrides = _overrides(document.get("metrics", {}), problems)
    values = {key: document[key] for key in _VALUE_KEYS if key in document}
    named = {"name": document.get("name", name)}
    plan = _converted(named | values, RolloutPlan, "", problems)
    if problems or plan is None:
        raise ConfigError(f"{where}: {'; '.join(problems)}; mend it and start again")
    kept = tuple(step for step in steps if step is not None)
    plan = replace(plan, steps=kept, rules=resolved_rules(kept, overrides))
    return check_plan(plan, where)


def _step(table: Mapping[str, Any], number: int, problems: list[str]) -> PlanStep | None:
    at = f"steps[{number}]."
    problems += _unknown(table, _STEP_KEYS, at)
    if "share" not in table:
        problems.append(f"{at}share is missing, expected above 0 and at most 0.5")
        return None
    return _converted(table, PlanStep, at, problems)


def _overrides(tables: Any, problems: list[str]) -> dict[str, MetricRule]:
    if not isinstance(tables, dict):
        problems.append(f"metrics is {tables!r}, expected tables [metrics.NAME]")
        return {}
    overrides: dict[str, MetricRule] = {}
    for name, table in tables.items():
        at = f"metrics.{name}."
        rule = METRICS.get(name)
        if rule is None:
            problems.append(f"metrics.{name} is not known, expected {', '.join(sorted(METRICS))}")
        elif not isinstance(table, dict):
            problems.append(f"metrics.{name} is {table!r}, expected a table")
        else:
            problems += _unknown(table, _RULE_KEYS, at)
            known = {key: value for key, value in table.items() if key in _RULE_KEYS}
            changed = _converted(asdict(rule) | known, MetricRule, at, problems)
            overrides[name] = changed or rule
    return overrides


def _converted(values: Mapping[str, Any], kind: type[T], at: str, problems: list[str]) -> T | None:
    """The values as a frozen dataclass, or None and a problem that names key and value."""
    try:
        return msgspec.convert(dict(values), kind)
    except msgspec.ValidationError as error:
        said, _, place = str(error).partition(" - at `$")
        key = place.rstrip("`").lstrip(".")
        value = values.get(key.partition("[")[0], "")
        problems.append(f"{at}{key} is {value!r}: {said[:1].lower()}{said[1:]}")
        return None


def _unknown(table: Mapping[str, Any], known: Sequence[str], at: str) -> list[str]:
    return [
        f"{at}{key} is not known, expected some of {', '.join(known)}"
        for key in table
        if key not in known
    ]
