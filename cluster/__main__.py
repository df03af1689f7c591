"""The command `cluster`: its verbs, global options, errors and exit codes. Imports no verb.

A verb's module is imported when the verb runs, so that help answers at once.
"""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

import click

from cluster.console import Console
from recsys.errors import RecsysError

INTERRUPTED = 130

VERBS: dict[str, tuple[str, str]] = {
    "demo": (
        "cluster.demo.demo_command:demo",
        "Run the whole loop once: data, training, traffic, rollout.",
    ),
    "import": ("cluster.learning_commands:import_history", "Bring history into the lake."),
    "train": ("cluster.learning_commands:train", "Train, evaluate and publish a bundle."),
    "evaluate": ("cluster.learning_commands:evaluate", "Print the offline table of a bundle."),
    "up": ("cluster.local.up:up", "Start serving on this machine."),
    "down": ("cluster.local.down:down", "Stop everything `up` started."),
    "status": ("cluster.status:status", "Say what runs and whether it is healthy."),
    "doctor": ("cluster.doctor:doctor", "Find what stands in the way, with the mend."),
    "recommend": ("cluster.recommend:recommend", "Ask for one slate and print it as a table."),
    "bundle": ("cluster.bundles.bundle_commands:bundle", "Look into the registry of bundles."),
    "canary": ("cluster.rollouts.verbs.canary_commands:canary", "Start, follow and end rollouts."),
    "shadow": ("cluster.shadows.shadow_commands:shadow", "Copy requests to a bundle nobody sees."),
    "experiment": (
        "cluster.experiments.experiment_commands:experiment",
        "Compare bundles or orderings among users.",
    ),
    "events": ("cluster.events_commands:events", "Look into the log; replay it; forget a person."),
    "lake": ("cluster.lake_commands:lake", "Check, compact and look back into the lake."),
    "check-data": ("cluster.data_reports:check_data", "Try the checks a training begins with."),
    "evidence": (
        "cluster.data_reports:evidence",
        "Print what users did with each bundle's slates.",
    ),
    "features": ("cluster.features_commands:features", "Show what serving knows of a user."),
    "keys": ("cluster.keys.key_commands:keys", "Make, list and revoke API keys."),
    "backup": ("cluster.stores.backup_commands:backup", "Keep stores elsewhere; bring them back."),
    "k8s": (
        "cluster.kubernetes.kubernetes_commands:kubernetes",
        "Lint manifests of Kubernetes, and make ours from settings.",
    ),
}
"""Verb -> where its click command lives and its one line in `cluster --help`."""

_FLAGS = ("--json", "--debug")
_CONFIG = "--config"
_VALUED = (_CONFIG, "--context")


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports one only when it is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs, in the order of the loop."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The verb's command, imported now; None if there is no such verb."""
        if cmd_name not in VERBS:
            return None
        module_name, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module_name), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module_name}:{attribute} is no click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, but an unknown verb is answered with the nearest known one."""
        if args and args[0] not in VERBS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], VERBS, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise click.UsageError(
                f"there is no verb '{args[0]}'; {hint}run 'cluster --help' for the list"
            )
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of verbs, from `VERBS` alone."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, summary) for name, (_, summary) in VERBS.items()])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Global options may also stand after the verb. 'cluster VERB --help' shows examples.",
)
@click.option(
    _CONFIG,
    "config_files",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Settings in TOML; repeatable, later files win. FLYWHEEL_CONFIG names a default.",
)
@click.option(
    "--context",
    metavar="NAME",
    help="Another place's settings: NAME.toml in ~/.config/flywheel, or in FLYWHEEL_CONTEXTS.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout, nothing else.")
@click.option("--debug", is_flag=True, help="Print the traceback of an error.")
@click.pass_context
def cli(
    ctx: click.Context,
    config_files: tuple[Path, ...],
    context: str | None,
    as_json: bool,
    debug: bool,
) -> None:
    """Flywheel: recommendations that improve themselves.

    \b
    Examples:
      cluster import data/ml-1m && cluster train --publish
      cluster up --wait && cluster recommend 1
      cluster status --watch
      cluster --context prod canary status
    """

    def load() -> object:
        from recsys.settings_files import context_file, load_settings

        first = () if context is None else (context_file(context),)
        return load_settings((*first, *config_files))

    ctx.obj = Console(load, as_json=as_json, debug=debug)


def hoist_global_options(arguments: Sequence[str]) -> list[str]:
    """The arguments with the global options moved before the verb; nothing after `--` is moved."""
    first: list[str] = []
    rest: list[str] = []
    remaining = list(arguments)
    while remaining:
        argument = remaining.pop(0)
        if argument == "--":
            rest += [argument, *remaining]
            break
        if argument in _FLAGS or argument.startswith(tuple(f"{name}=" for name in _VALUED)):
            first.append(argument)
        elif argument in _VALUED and remaining:
            first += [argument, remaining.pop(0)]
        else:
            rest.append(argument)
    return first + rest


def run(arguments: Sequence[str]) -> int:
    """Run one command line and answer its exit code; errors are printed here and nowhere else."""
    debug = "--debug" in arguments
    try:
        result = cli.main(
            args=hoist_global_options(arguments), prog_name="cluster", standalone_mode=False
        )
    except RecsysError as error:
        return _report(error, str(error), error.exit_code, debug)
    except click.ClickException as error:
        return _report(error, error.format_message(), error.exit_code, debug)
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename is not None else ""
        what = f"cannot use{where} ({error.strerror or error}), expected to read and write it"
        return _report(error, f"{what}; run 'cluster doctor'", 1, debug)
    except Exception as error:
        what = f"{type(error).__name__}: {error}; run it again with --debug for the traceback"
        return _report(error, f"unexpected {what}", 1, debug)
    return result if isinstance(result, int) else 0


def _report(error: Exception, message: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    one_line = " ".join(message.split())
    click.echo(f"error: {one_line}", err=True)
    return exit_code


def main() -> None:
    """The console script."""
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
