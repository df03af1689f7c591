"""`python -m train_app`: import, ingest, train and evaluate from a command line.

Parses arguments, prints results and errors and chooses exit codes; the work is loaded only then.
Progress goes to standard error, so that with `--json` standard output is one JSON document.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import click

from recsys.errors import ConfigError, RecsysError
from recsys.settings import Settings

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED = 130
# OpenMP threads that spin while they wait cost several times a step where cores are shared; the
# library reads this when torch loads it, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
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


def _until(ctx: click.Context, param: click.Parameter, value: str | None) -> int | None:
    try:
        return None if value is None else time_ms(value)
    except ValueError as error:
        raise click.BadParameter(
            f"{value!r} is no time, expected ISO 8601 such as 2026-01-31T12:00:00Z, "
            "or a number of s, ms or us since 1970"
        ) from error


def _shared_options(command: Command) -> Command:
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


@click.group(help="Learn: history into the lake, the lake into bundles.")
def app() -> None:
    """The group of all verbs."""


@app.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--items", type=click.Path(path_type=Path), help="A file of items.")
@click.option("--users", type=click.Path(path_type=Path), help="A file of users.")
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["auto", "movielens", "csv", "parquet"]),
    default="auto",
    show_default=True,
)
@click.option("--map", "mapping", default="", metavar="FIELD=COLUMN,...", help="Columns by field.")
@click.option("--delimiter", help="Between columns; found out by default.")
@click.option("--no-header", is_flag=True, help="The first line is data; columns are 1, 2, ...")
@click.option("--kind", help="Kind of engagements without a kind column.")
@click.option("--dry-run", is_flag=True, help="Only say what would be imported.")
@_shared_options
def import_history(**options: Any) -> None:
    """Bring history from SOURCE into the lake and the feature store."""
    from train_app.data_commands import import_files

    _run(import_files, options, mapping=_mapping(options.pop("mapping")))


@app.command()
@_shared_options
def ingest(**options: Any) -> None:
    """Bring the event log into the lake."""
    from train_app.data_commands import ingest_log

    _run(ingest_log, options)


@app.command()
@click.option("--warm-start", is_flag=True, help="Begin from the stable bundle's weights.")
@click.option("--publish", is_flag=True, help="Publish the bundle if the gate lets it pass.")
@click.option(
    "--until", "until_ms", callback=_until, metavar="TIME", help="Use only engagements before TIME."
)
@_shared_options
def train(**options: Any) -> None:
    """Train, evaluate and publish a bundle; exit code 6 if the gate refuses."""
    from train_app.training_commands import train_bundle

    _run(train_bundle, options, is_learning=True)


@app.command()
@click.argument("bundle_id", metavar="[BUNDLE]", required=False)
@click.option(
    "--protocol",
    type=click.Choice(["time", "leave-one-out", "ncf"]),
    default="time",
    show_default=True,
)
@click.option("--against", metavar="BUNDLE", help="A bundle to compare with.")
@_shared_options
def evaluate(**options: Any) -> None:
    """Print the offline table of BUNDLE, or of a training on the protocol's training part."""
    from train_app.training_commands import evaluate_offline

    _run(evaluate_offline, options, is_learning=True)


def _run(
    command: Callable[..., Any],
    options: dict[str, Any],
    *,
    is_learning: bool = False,
    **more: Any,
) -> None:
    as_json = options.pop("as_json")
    options.pop("debug")
    settings = _settings(options.pop("settings_file"))
    if is_learning:
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


def _mapping(text: str) -> dict[str, str]:
    """`user_id=uid,item_id=sku` as a dictionary."""
    pairs = [pair.partition("=") for pair in text.split(",") if pair.strip()]
    broken = [field for field, _, column in pairs if not (field.strip() and column.strip())]
    if broken:
        raise ConfigError(
            f"--map has {broken[0]!r} without a column, expected FIELD=COLUMN,FIELD=COLUMN,..."
        )
    return {field.strip(): column.strip() for field, _, column in pairs}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code; errors are one line on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    try:
        code = app.main(args=words, prog_name="python -m train_app", standalone_mode=False)
    except RecsysError as error:
        return _fail(str(error), error.exit_code, debug)
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code, debug)
    except (click.Abort, KeyboardInterrupt):
        return _fail("interrupted; run the same command again to go on", INTERRUPTED, debug)
    except (OSError, MemoryError) as error:
        return _fail(f"{type(error).__name__}: {error}", 1, debug)
    except Exception as error:
        # Whatever a library raises, a person gets one line; the traceback is one option away.
        return _fail(f"unexpected {type(error).__name__}: {error}; see --debug", 1, debug)
    return code if isinstance(code, int) else 0


def _fail(message: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {message}", file=sys.stderr, flush=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
