"""`cluster import`, `train` and `evaluate`: run `python -m train_app` as a child process.

Training needs torch and Ray Train, which this process never imports; the child inherits stdin,
stdout and stderr, and its exit code is passed on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console

if TYPE_CHECKING:
    from recsys.settings import Settings

CANARY_PLAN = "instant"
_OF_TABLE = ("protocol", "against", "cuts", "negatives", "no_tune_baselines")
_OF_LOG = ("kind", "positions", "since")


@click.command(
    "import",
    epilog="""\b
    Examples:
      cluster import data/ml-1m
      cluster import clicks.csv --map user_id=uid,item_id=sku,timestamp=ts,kind=action
      cluster import log.parquet --items items.parquet --dry-run
      cluster import pairs.tsv --no-header --delimiter '\\t' --map user_id=1,item_id=2 --kind view
    """,
)
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--items", type=click.Path(path_type=Path), metavar="F", help="Item attributes.")
@click.option("--users", type=click.Path(path_type=Path), metavar="F", help="User attributes.")
@click.option(
    "--format",
    type=click.Choice(["auto", "movielens", "csv", "parquet"]),
    default="auto",
    show_default=True,
)
@click.option(
    "--map",
    metavar="FIELD=COLUMN,...",
    help="Columns of user_id, item_id, timestamp, kind and value.",
)
@click.option("--delimiter", metavar="C", help="Between the columns of a text file.")
@click.option("--no-header", is_flag=True, help="Columns are named 1, 2, ...")
@click.option("--kind", metavar="NAME", help="The kind where no column names it; default view.")
@click.option("--dry-run", is_flag=True, help="Check and count; write nothing.")
@click.pass_context
def import_history(ctx: click.Context, /, **options: Any) -> None:
    """Bring history into the lake and the feature store.

    SOURCE is a folder or a file: MovieLens, CSV or Parquet. The same file twice changes nothing;
    bad rows go to quarantine with line and reason.
    """
    ctx.exit(run_learning(ctx.obj, import_arguments(options))[0])


def search_arguments(options: Mapping[str, Any], makes_bundle: bool) -> list[str]:
    """The job's arguments for a search; none where it was not asked for.

    Args:
        makes_bundle: whether an option was given that a search has no use for.

    Raises:
        click.UsageError: the options do not go together.
    """
    bounds = [name for name in ("trials", "minutes") if options[name] is not None]
    if not options["search"]:
        if bounds:
            raise click.UsageError(f"--{bounds[0]} is of --search, which was not given")
        return []
    if makes_bundle:
        raise click.UsageError("--search makes no bundle; train one with what it finds")
    return ["--search", *(word for name in bounds for word in (f"--{name}", str(options[name])))]


def import_arguments(options: Mapping[str, Any]) -> list[str]:
    """The job's arguments for the options given; one that was left out is left to the job."""
    arguments = ["import", str(options["source"])]
    for name in ("items", "users", "map", "delimiter", "kind"):
        if options[name] is not None:
            arguments += [f"--{name}", str(options[name])]
    if options["format"] != "auto":
        arguments += ["--format", options["format"]]
    arguments += ["--no-header"] if options["no_header"] else []
    arguments += ["--dry-run"] if options["dry_run"] else []
    return arguments


@click.command(
    epilog="""\b
    Examples:
      cluster train --publish
      cluster train --warm-start --publish --canary
      cluster train --until 2026-01-31T00:00:00Z
      cluster train --search --trials 30 --minutes 120 > better.toml
    """
)
@click.option("--warm-start", is_flag=True, help="Begin from the stable bundle's weights.")
@click.option("--publish", is_flag=True, help="Add the bundle to the registry if the gate agrees.")
@click.option("--canary", is_flag=True, help="Publish and start its rollout at once.")
@click.option("--until", metavar="TIME", help="Learn from events before this time only (ISO 8601).")
@click.option("--search", is_flag=True, help="Look for better settings; publishes nothing.")
@click.option("--trials", type=click.IntRange(1), metavar="N", help="With --search; default 20.")
@click.option("--minutes", type=click.FloatRange(1), metavar="M", help="Likewise; default 60.")
@click.pass_context
def train(
    ctx: click.Context,
    /,
    warm_start: bool,
    publish: bool,
    canary: bool,
    until: str | None,
    **search: Any,
) -> None:
    """Check the data, train, evaluate, pass the gate and publish; prints the bundle id.

    Exit code 6 if the data checks or the gate refuse. With --search it tries settings on a
    validation slice of the training part, goes on with an earlier search of the same data, and
    prints the best as TOML for --config.
    """
    console: Console = ctx.obj
    arguments = ["train", *search_arguments(search, publish or canary or warm_start)]
    arguments += ["--warm-start"] if warm_start else []
    arguments += ["--publish"] if publish or canary else []
    arguments += ["--until", until] if until is not None else []
    exit_code, document = run_learning(console, arguments, reads_result=canary)
    if exit_code != 0 or not canary:
        ctx.exit(exit_code)
    bundle_id = document.get("bundle_id")
    if not bundle_id:
        raise click.ClickException("training published no bundle, expected one for the canary")
    _start_canary(console, str(bundle_id), document)


@click.command(
    epilog="""\b
    Examples:
      cluster evaluate
      cluster evaluate --protocol leave-one-out
      cluster evaluate --cuts 3
      cluster evaluate 20260131-ab12 --against 20260124-9f00
      cluster evaluate --off-policy --kind click
    """
)
@click.argument("bundle", required=False)
@click.option(
    "--protocol",
    type=click.Choice(["time", "leave-one-out", "ncf"]),
    help="How the held-out part is chosen; default time.",
)
@click.option("--against", metavar="BUNDLE", help="Another bundle, beside it in the table.")
@click.option("--cuts", type=click.IntRange(1), metavar="N", help="Windows of time; default 1.")
@click.option(
    "--negatives",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A published split for ncf: (user,item), then the items it is ranked among.",
)
@click.option("--no-tune-baselines", is_flag=True, help="Baselines with settings as they come.")
@click.option("--off-policy", is_flag=True, help="From the log: what it would have earned.")
@click.option("--kind", metavar="KIND", help="With --off-policy: the kind that counts.")
@click.option("--positions", type=click.IntRange(1), metavar="N", help="Likewise: the first N.")
@click.option("--since", metavar="TIME", help="Likewise: slates shown from then on (ISO 8601).")
@click.pass_context
def evaluate(ctx: click.Context, /, bundle: str | None, **options: Any) -> None:
    """Print the offline table with intervals, baselines beside it.

    Without BUNDLE it trains on the protocol's training part with the present settings. A bundle
    whose training data includes the test part is refused with exit code 6. With --off-policy it
    trains nothing: it says what BUNDLE, or the present ordering settings, would have earned on the
    slates of the log, and refuses with exit code 6 where the log cannot tell.
    """
    ctx.exit(run_learning(ctx.obj, evaluation_arguments(bundle, options))[0])


def evaluation_arguments(bundle: str | None, options: Mapping[str, Any]) -> list[str]:
    """The job's arguments for the offline table or, with `off_policy`, for what the log tells.

    Raises:
        click.UsageError: an option is given that only the other of the two knows.
    """
    words = {name: f"--{name.replace('_', '-')}" for name in (*_OF_TABLE, *_OF_LOG)}
    given = {name: options[name] for name in words if options[name] not in (None, False)}
    for name in given:
        if options["off_policy"] and name in _OF_TABLE:
            raise click.UsageError(
                f"{words[name]} belongs to the offline table, expected none with --off-policy"
            )
        if not options["off_policy"] and name in _OF_LOG:
            raise click.UsageError(f"{words[name]} is of --off-policy, which was not given")
    arguments = ["off-policy" if options["off_policy"] else "evaluate"]
    arguments += [bundle] if bundle is not None else []
    for name, value in given.items():
        arguments += [words[name]] if value is True else [words[name], str(value)]
    return arguments


def child_command(
    settings_file: Path, arguments: Sequence[str], as_json: bool, debug: bool = False
) -> list[str]:
    """The command line of the child: the verb first, then its settings and options."""
    verb, *options = arguments
    command = [sys.executable, "-m", "train_app", verb, "--settings", str(settings_file)]
    command += ["--json"] if as_json else []
    command += ["--debug"] if debug else []
    return command + options


def run_learning(
    console: Console, arguments: Sequence[str], reads_result: bool = False
) -> tuple[int, dict[str, Any]]:
    """Run one job in a child process with this process's settings.

    Args:
        console: settings, and whether the child prints JSON.
        arguments: the verb and its options.
        reads_result: take the child's JSON document instead of letting it through.

    Returns:
        Its exit code, and its document if that was asked for.
    """
    settings = console.settings
    with tempfile.TemporaryDirectory(prefix="flywheel-job-") as directory:
        settings_file = Path(directory) / "settings.json"
        settings_file.write_text(settings.model_dump_json())
        as_json = console.as_json or reads_result
        command = child_command(settings_file, arguments, as_json, console.debug)
        return _run(command, _niceness(settings, arguments[0]), reads_result)


def _niceness(settings: Settings, verb: str) -> int:
    """Learning gives way to serving; an import is short and waited for."""
    return 0 if verb == "import" else settings.train.nice


def _run(command: list[str], niceness: int, reads_result: bool) -> tuple[int, dict[str, Any]]:
    stdout = subprocess.PIPE if reads_result else None
    with subprocess.Popen(command, stdout=stdout) as child:
        if niceness:
            os.setpriority(os.PRIO_PROCESS, child.pid, niceness)

        def forward(number: int, frame: object) -> None:
            # On a terminal the child has its own Ctrl-C already; elsewhere it needs ours.
            if number != signal.SIGINT or not sys.stdin.isatty():
                child.send_signal(number)

        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, forward) for number in numbers}
        try:
            output, _ = child.communicate()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
    # A child ended by a signal answers as a shell would say it.
    exit_code = child.returncode if child.returncode >= 0 else 128 - child.returncode
    return exit_code, _parse_document(output) if output else {}


def _parse_document(output: bytes) -> dict[str, Any]:
    try:
        document = json.loads(output)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _start_canary(console: Console, bundle_id: str, training: dict[str, Any]) -> None:
    """Start the rollout of a bundle just published; prints both results as one."""
    from cluster.rollouts.verbs.canary_commands import canary

    said: list[str] = []
    inner = Console(console.settings, console.as_json, console.debug, write=said.append)
    canary.main(
        args=["start", bundle_id, "--plan", CANARY_PLAN],
        prog_name="cluster canary",
        obj=inner,
        standalone_mode=False,
    )
    rollout = _parse_document("\n".join(said).encode())
    console.emit(training | {"rollout": rollout}, "\n".join([f"published {bundle_id}", *said]))
