"""The verbs of `python -m train_app` that read and keep data: lake, examples, checks, evidence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from train_app.verb_options import parse_time, run_verb, shared_options, until_option


@click.command()
@shared_options
def ingest(**options: Any) -> None:
    """Bring the event log into the lake."""
    from train_app.data_commands import ingest_log

    run_verb(ingest_log, options)


@click.command("lake-check")
@click.option("--acknowledge-gaps", metavar="REASON", help="Lost records alarm nobody any more.")
@shared_options
def lake_check(**options: Any) -> None:
    """Prove that every record of the log is in the lake once; exit code 1 if not."""
    from train_app.lake.upkeep.lake_reports import check_whole

    run_verb(check_whole, options)


@click.command("lake-compact")
@click.option("--vacuum", is_flag=True, help="Also delete files that nobody needs any more.")
@shared_options
def lake_compact(**options: Any) -> None:
    """Rewrite many small files into few."""
    from train_app.lake.upkeep.lake_reports import compact

    run_verb(compact, options)


@click.command("lake-history")
@click.argument("table", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True)
@shared_options
def lake_history(**options: Any) -> None:
    """List versions of TABLE, or of all: time, rows, and who wrote them."""
    from train_app.lake.upkeep.lake_reports import history

    run_verb(history, options)


@click.command()
@until_option("The split's cutoff; by default now.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder; by default data_dir's.")
@click.option("--random", "n_random", type=click.IntRange(min=0), help="Random negatives.")
@click.option("--no-organic", is_flag=True, help="Only engagements that a slate led to.")
@click.option("--on-ray", is_flag=True, help="Make the parts on Ray.")
@shared_options
def examples(n_random: int | None, no_organic: bool, **options: Any) -> None:
    """Write training examples of the lake: engagements joined to their impressions."""
    from train_app.examples.example_command import write_examples

    given = {} if n_random is None else {"n_random": n_random}
    run_verb(write_examples, options, gives_way=True, organic=not no_organic, **given)


@click.command("check-data")
@click.argument("only", metavar="[CHECK]...", nargs=-1)
@until_option("Use only engagements before TIME.")
@shared_options
def check_data(**options: Any) -> None:
    """Run the checks a training begins with, or those named; exit code 6 if they refuse."""
    from train_app.checking.check_commands import check_data as check

    run_verb(check, options, gives_way=True)


@click.command()
@click.argument("bundle_ids", metavar="[BUNDLE]...", nargs=-1)
@click.option("--since", "since_ms", callback=parse_time, metavar="TIME", help="From this day on.")
@until_option("Up to this day.")
@click.option("--by", metavar="SEGMENT", help="A row per value of it.")
@shared_options
def evidence(**options: Any) -> None:
    """Print what users did with each bundle's slates."""
    from train_app.following.evidence.evidence_report import show_evidence

    run_verb(show_evidence, options)


@click.command()
@click.option("--features", is_flag=True, help="The live features.")
@click.option("--evidence", is_flag=True, help="Sessions and attribution.")
@click.option("--from-lake", is_flag=True, help="Begin with the lake, for what the log dropped.")
@shared_options
def replay(**options: Any) -> None:
    """Compute live features or evidence anew from the log."""
    from train_app.following.replay_stores import replay as replay_stores

    run_verb(replay_stores, options)


@click.command()
@click.argument("user_id", metavar="USER")
@shared_options
def forget(**options: Any) -> None:
    """Remove USER from log, lake, features and evidence."""
    from train_app.forgetting import forget_user

    run_verb(forget_user, options)


DATA_VERBS = (
    ingest,
    lake_check,
    lake_compact,
    lake_history,
    examples,
    check_data,
    evidence,
    replay,
    forget,
)
