"""`cluster check-data` and `cluster evidence`: what the data is fit for, and what it shows.

DuckDB and the lake stay out of this process: each verb runs `python -m train_app` as a child.
"""

from __future__ import annotations

import click

from cluster.learning_commands import run_learning


@click.command(
    "check-data",
    epilog="""\b
    Examples:
      cluster check-data
      cluster check-data skew drift
      cluster --json check-data labels | jq .findings
    """,
)
@click.argument("checks", metavar="[CHECK]...", nargs=-1)
@click.option("--until", metavar="TIME", help="Use only engagements before TIME.")
@click.pass_context
def check_data(ctx: click.Context, checks: tuple[str, ...], until: str | None) -> None:
    """Run the checks a training begins with, all of them or those named.

    Exit code 6 where they refuse training, with every reason.
    """
    options = [] if until is None else ["--until", until]
    ctx.exit(run_learning(ctx.obj, ["check-data", *options, *checks])[0])


@click.command(
    epilog="""\b
    Examples:
      cluster evidence
      cluster evidence b20261122-091500-4e1c9a --since 2026-11-20
      cluster evidence --by device
    """
)
@click.argument("bundles", metavar="[BUNDLE]...", nargs=-1)
@click.option("--since", metavar="TIME", help="From this time on.")
@click.option("--until", metavar="TIME", help="Up to this time.")
@click.option("--by", metavar="SEGMENT", help="A row per value of a segment, such as device.")
@click.pass_context
def evidence(
    ctx: click.Context,
    bundles: tuple[str, ...],
    since: str | None,
    until: str | None,
    by: str | None,
) -> None:
    """Print what users did with each bundle's slates: click-through, conversions, waste, sessions.

    The intervals are of a fixed horizon: looking again and again until one excludes zero misleads.
    """
    named = {"--since": since, "--until": until, "--by": by}
    options = [word for name, value in named.items() if value is not None for word in (name, value)]
    ctx.exit(run_learning(ctx.obj, ["evidence", *options, *bundles])[0])
