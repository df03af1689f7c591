"""Which settings are searched, over which ranges, and the best of them as a file of settings.

Pure: a trial is asked for values and knows nothing of what they are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from recsys.settings import Settings

Value = bool | int | float | str | None


class Proposes(Protocol):
    """What a trial is asked for: Optuna's own, drawn from the study or fixed beforehand."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between two bounds."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of some values."""


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers between two bounds; `is_log` where their order of magnitude counts."""

    low: float
    high: float
    is_log: bool = False


SPACE: Mapping[str, Range | tuple[int, ...]] = {
    "train.towers.learning_rate": Range(3e-4, 1e-2, is_log=True),
    "train.towers.weight_decay": Range(1e-4, 1e-1, is_log=True),
    "train.towers.dropout": Range(0.0, 0.5),
    "train.towers.id_dropout": Range(0.0, 0.2),
    "train.towers.embedding_dim": (32, 64, 128),
    "train.towers.n_layers": (1, 2, 3),
    "train.towers.n_negatives": (256, 512, 1024, 2048),
    "train.towers.history_length": (50, 100, 200),
    "train.scorer.learning_rate": Range(3e-4, 3e-3, is_log=True),
}


def present_values(settings: Settings) -> dict[str, Value]:
    """What the settings say now, kept within the ranges; the first thing to try.

    What they leave open stands in the middle of its range.
    """
    document = settings.model_dump()
    values: dict[str, Value] = {}
    for name, span in SPACE.items():
        value = document
        for word in name.split("."):
            value = value[word]
        values[name] = _kept(value, span)
    return values


def proposed(trial: Proposes, settings: Settings) -> Settings:
    """The settings with what the trial proposes."""
    present = present_values(settings)
    values: dict[str, Any] = {}
    for name, span in SPACE.items():
        if isinstance(span, Range):
            values[name] = trial.suggest_float(name, span.low, span.high, log=span.is_log)
        else:
            choices = {*_possible(name, span, settings), int(present[name] or 0)}
            values[name] = trial.suggest_categorical(name, sorted(choices))
    return with_values(settings, values)


def with_values(settings: Settings, values: Mapping[str, Any]) -> Settings:
    """The settings with other values by their whole names."""
    document = settings.model_dump()
    for name, value in values.items():
        *path, last = name.split(".")
        branch = document
        for word in path:
            branch = branch[word]
        branch[last] = value
    return Settings.model_validate(document)


def shortened(settings: Settings, share: float, most_minutes: float) -> Settings:
    """The settings with a share of the schedule, and a bound of each model's minutes."""
    towers, scorer = settings.train.towers, settings.train.scorer
    values: dict[str, Any] = {
        "train.towers.epochs": max(1, round(towers.epochs * share)),
        "train.towers.max_steps": round(towers.max_steps * share),
        "train.scorer.epochs": max(1, round(scorer.epochs * share)),
    }
    for name, own in (("towers", towers.max_minutes), ("scorer", scorer.max_minutes)):
        values[f"train.{name}.max_minutes"] = share * min(own or most_minutes, most_minutes)
    return with_values(settings, values)


def as_toml(values: Mapping[str, Value]) -> str:
    """The values as a file that `--config` takes."""
    tables: dict[str, list[str]] = {}
    for name, value in values.items():
        table, _, key = name.rpartition(".")
        shown = f"{value:.6g}" if isinstance(value, float) else str(value)
        tables.setdefault(table, []).append(f"{key} = {shown}")
    return "\n\n".join("\n".join([f"[{table}]", *lines]) for table, lines in tables.items())


def _possible(name: str, span: tuple[int, ...], settings: Settings) -> tuple[int, ...]:
    """The choices that make a model: every head takes an equal part of a width."""
    if name != "train.towers.embedding_dim":
        return span
    return tuple(one for one in span if one % settings.train.towers.n_heads == 0)


def _kept(value: Any, span: Range | tuple[int, ...]) -> Value:
    if isinstance(span, Range):
        wanted = (span.low + span.high) / 2 if value is None else float(value)
        return min(max(wanted, span.low), span.high)
    kept: int = value
    return kept
