"""`python -m train_app`: bring data in, look after it, train and evaluate from a command line.

Parses arguments, prints results and errors and chooses exit codes; the work is loaded only then.
Progress goes to standard error, so that with `--json` standard output is one JSON document.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from recsys.errors import RecsysError
from train_app.data_verbs import DATA_VERBS
from train_app.verb_options import parse_mapping, parse_time, run_verb, shared_options, until_option

INTERRUPTED = 130
# OpenMP threads that spin while they wait cost several times a step where cores are shared; the
# library reads this when torch loads it, which is later.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


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
@shared_options
def import_history(**options: Any) -> None:
    """Bring history from SOURCE into the lake and the feature store."""
    from train_app.data_commands import import_files

    run_verb(import_files, options, mapping=parse_mapping(options.pop("mapping")))


@app.command()
@click.option("--warm-start", is_flag=True, help="Begin from the stable bundle's weights.")
@click.option("--publish", is_flag=True, help="Publish the bundle if the gate lets it pass.")
@click.option("--search", is_flag=True, help="Look for better settings instead of a bundle.")
@click.option("--trials", "n_trials", type=click.IntRange(1), default=20, show_default=True)
@click.option("--minutes", type=click.FloatRange(1), default=60.0, show_default=True)
@until_option("Use only engagements before TIME.")
@shared_options
def train(search: bool, n_trials: int, minutes: float, **options: Any) -> None:
    """Train, evaluate and publish a bundle; exit code 6 if the gate refuses."""
    if search:
        if any([options.pop("warm_start"), options.pop("publish")]):
            raise click.UsageError("--search publishes nothing and starts from nothing")
        from train_app.searching.search_command import search_settings

        run_verb(search_settings, options, gives_way=True, n_trials=n_trials, minutes=minutes)
        return
    from train_app.training_commands import train_bundle

    run_verb(train_bundle, options, gives_way=True)


@app.command()
@click.argument("bundle_id", metavar="[BUNDLE]", required=False)
@click.option(
    "--protocol",
    type=click.Choice(["time", "leave-one-out", "ncf"]),
    default="time",
    show_default=True,
)
@click.option("--against", metavar="BUNDLE", help="A bundle to compare with.")
@click.option("--cuts", "n_cuts", type=click.IntRange(1), default=1, help="Windows of time.")
@click.option("--negatives", type=click.Path(path_type=Path), help="A published split for ncf.")
@click.option("--tune-baselines/--no-tune-baselines", default=True, show_default=True)
@shared_options
def evaluate(**options: Any) -> None:
    """Print the offline table of BUNDLE, or of a training on the protocol's training part."""
    from train_app.training_commands import evaluate_offline

    run_verb(evaluate_offline, options, gives_way=True)


@app.command("off-policy")
@click.argument("bundle_id", metavar="[BUNDLE]", required=False)
@click.option("--kind", metavar="KIND", help="The one kind of engagement that counts.")
@click.option("--positions", type=click.IntRange(1), metavar="N", help="Only the first N.")
@click.option(
    "--since", "since_ms", callback=parse_time, metavar="TIME", help="Shown from then on."
)
@until_option("Use only what happened before TIME.")
@shared_options
def off_policy(**options: Any) -> None:
    """Estimate from the log what BUNDLE, or other ordering settings, would have earned."""
    from train_app.off_policy.off_policy_command import run_off_policy

    run_verb(run_off_policy, options, gives_way=True)


@app.command("shadow-lift")
@click.argument("shadow_id", metavar="SHADOW")
@click.option("--kind", metavar="KIND", help="The one kind of engagement that counts.")
@click.option("--positions", type=click.IntRange(1), metavar="N", help="Only the first N.")
@click.option("--since", "since_ms", callback=parse_time, metavar="TIME", help="From then on.")
@click.option("--share", type=click.FloatRange(0.0, 1.0, min_open=True), help="It was to copy.")
@shared_options
def shadow_lift(**options: Any) -> None:
    """Estimate from the log what the slates of SHADOW would have earned."""
    from train_app.shadows.lift_command import run_shadow_lift

    run_verb(run_shadow_lift, options, gives_way=True)


@app.command("experiment-report")
@click.option("--design", required=True, metavar="JSON", help="What it declared at its start.")
@shared_options
def experiment_report(**options: Any) -> None:
    """Report on an experiment from the lake; exit code 6 if its sides cannot be compared."""
    from train_app.experiments.experiment_report import report_experiment

    run_verb(report_experiment, options, gives_way=True)


@app.command("compose")
@click.option("--base", required=True, metavar="BUNDLE", help="Whose retrieval it keeps.")
@click.option("--scorer", metavar="BUNDLE", help="Whose scorer it takes.")
@click.option("--ordering", metavar="BUNDLE", help="Whose ordering policy it takes.")
@shared_options
def compose_parts(**options: Any) -> None:
    """Publish a bundle made of parts of others; serves nobody yet."""
    from train_app.composing.compose_bundle import compose

    run_verb(compose, options)


for verb in DATA_VERBS:
    app.add_command(verb)


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
