"""What the verbs of `python -m train_app` share: options, settings, times, and how one is run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from recsys.errors import ConfigError
from recsys.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])
_MS_PER_UNIT = ((1e11, 1_000), (1e14, 1), (1e17, 1 / 1_000))
"""A number below the bound is in seconds, milliseconds or microseconds: factors to ms."""


def time_ms(text: str) -> int:
    """A moment as milliseconds since 1970 in UTC.

    Args:
        text: ISO 8601, in UTC where it names no zone, or a number of s, ms or us since 1970.

    Raises:
        ValueError: it is neither.
    """
    try:
        number = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        zoned = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        return round(zoned.timestamp() * 1000)
    for bound, factor in _MS_PER_UNIT:
        if 0 <= number < bound:
            return round(number * factor)
    raise ValueError(text)


def parse_time(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The callback of an option that is a time."""
    try:
        return None if value is None else time_ms(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no time, expected ISO 8601 such as 2026-01-31T12:00:00Z, "
            "or a number of s, ms or us since 1970"
        ) from error


def parse_mapping(text: str) -> dict[str, str]:
    """`user_id=uid,item_id=sku` as a dictionary.

    Raises:
        ConfigError: a field has no column.
    """
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    broken = [field for field, _, column in pairs if not (field.strip() and column.strip())]
    if broken:
        raise ConfigError(
            f"--map has {broken[0]!r} without a column, expected FIELD=COLUMN,FIELD=COLUMN,..."
        )
    return {field.strip(): column.strip() for field, _, column in pairs}


def until_option(help_text: str) -> Callable[[Command], Command]:
    """`--until TIME`, as `until_ms`."""
    return click.option("--until", "until_ms", callback=parse_time, metavar="TIME", help=help_text)


def shared_options(command: Command) -> Command:
    """The options that every verb has."""
    for option in (
        click.option("--debug", is_flag=True, help="Show tracebacks."),
        click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
        click.option(
            "--settings",
            "settings_file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Resolved settings as JSON; by default FLYWHEEL_CONFIG and the environment.",
        ),
    ):
        command = option(command)
    return command


def run_verb(
    command: Callable[..., Any],
    options: dict[str, Any],
    *,
    gives_way: bool = False,
    **more: Any,
) -> None:
    """Run a verb's function with its options, print its outcome and raise its error.

    Args:
        gives_way: run at the priority of a training.
    """
    as_json = options.pop("as_json")
    options.pop("debug")
    settings = _settings(options.pop("settings_file"))
    if gives_way:
        present = os.getpriority(os.PRIO_PROCESS, 0)
        os.setpriority(os.PRIO_PROCESS, 0, max(present, settings.train.nice))
    outcome = command(settings, **options, **more)
    print(json.dumps(outcome.document, allow_nan=False) if as_json else outcome.text, flush=True)
    if outcome.error is not None:
        raise outcome.error


def _settings(path: Path | None) -> Settings:
    if path is None:
        from recsys.settings_files import load_settings

        return load_settings()
    from pydantic import ValidationError

    try:
        return Settings.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"settings file {path} cannot be read: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the document"
        raise ConfigError(
            f"settings file {path}: {key}: {first['msg'].lower()}; write it with "
            "'cluster', or see configs/README.md for the keys"
        ) from error
