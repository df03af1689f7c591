"""`cluster lake`: check, compact and look back into the lake.

Delta Lake and DuckDB stay out of this process: each verb runs `python -m train_app` as a child.
"""

from __future__ import annotations

import click

from cluster.learning_commands import run_learning


@click.group(
    epilog="""\b
    Examples:
      cluster lake check
      cluster lake compact --vacuum
      cluster lake history engagements --limit 5
    """
)
def lake() -> None:
    """Check, compact and look back into the lake."""


@lake.command(
    epilog="""\b
    Examples:
      cluster lake check
      cluster --json lake check | jq .problems
      cluster lake check --acknowledge-gaps 'topic was deleted on Monday, see the post mortem'
    """
)
@click.option(
    "--acknowledge-gaps",
    metavar="REASON",
    help="Keep who, when and why: records that are lost by now alarm nobody any more.",
)
@click.pass_context
def check(ctx: click.Context, acknowledge_gaps: str | None) -> None:
    """Prove that every record of the log is in the lake exactly once.

    Per partition all offsets are accounted for, per table event ids are unique; prints the counts.
    Exit code 1 where something is wrong, or records are lost that nobody has acknowledged yet.
    """
    more = [] if acknowledge_gaps is None else ["--acknowledge-gaps", acknowledge_gaps]
    ctx.exit(run_learning(ctx.obj, ["lake-check", *more])[0])


@lake.command(
    epilog="""\b
    Examples:
      cluster lake compact
      cluster lake compact --vacuum
    """
)
@click.option("--vacuum", is_flag=True, help="Also delete old files that nobody needs any more.")
@click.pass_context
def compact(ctx: click.Context, vacuum: bool) -> None:
    """Rewrite the many small files of a day into few; the archiver goes on meanwhile.

    A file that a version named by a published bundle needs is never deleted.
    """
    ctx.exit(run_learning(ctx.obj, ["lake-compact", *(["--vacuum"] if vacuum else [])])[0])


@lake.command(
    epilog="""\b
    Examples:
      cluster lake history
      cluster lake history impressions --limit 50
    """
)
@click.argument("table", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@click.pass_context
def history(ctx: click.Context, table: str | None, limit: int) -> None:
    """List what was done to TABLE, or to all: version, time, rows, log offsets, and who did it."""
    arguments = ["lake-history", "--limit", str(limit), *([table] if table is not None else [])]
    ctx.exit(run_learning(ctx.obj, arguments)[0])
