"""`cluster events`: look into the log, rebuild what follows it, and forget a person.

Rebuilding and forgetting run as `python -m train_app` in a child process.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cluster.console import Console, as_text

if TYPE_CHECKING:
    from rich.table import Table

    from cluster.log_tail import TailedRecord
    from recsys.events import Event

POLL_S = 0.5


@click.group(
    epilog="""\b
    Examples:
      cluster events tail -n 50 --kind click
      cluster events replay --features
      cluster events forget alice@example.org
    """
)
def events() -> None:
    """Look into the log, rebuild what follows it, and forget a person."""


@events.command(
    epilog="""\b
    Examples:
      cluster events tail
      cluster events tail -n 100 --kind impression
      cluster events tail --follow --user alice
      cluster --json events tail | jq '.records[-1].event'
      cluster --json events tail --follow               (one JSON document per line)
    """
)
@click.option(
    "-n",
    "n_records",
    type=click.IntRange(1, 10_000),
    default=20,
    show_default=True,
    help="Records.",
)
@click.option("--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option(
    "--kind",
    metavar="NAME",
    help="A kind such as click, or engagement, impression, outcome, shadow, catalogue, "
    "forgotten, bad.",
)
@click.option("--user", "user_id", metavar="USER", help="Records of one user.")
@click.pass_obj
def tail(
    console: Console, n_records: int, follow: bool, kind: str | None, user_id: str | None
) -> None:
    """Print the newest records of the log, oldest first.

    At most the newest 100,000 records of each partition are looked at.
    """
    from cluster.log_tail import Wanted, follow_records, newest_records
    from recsys.stores.log.open_log import open_log

    wanted = Wanted(kind, user_id)
    with closing(open_log(console.settings)) as log:
        found = newest_records(log, n_records, wanted)
        if not follow:
            document = {"records": [record.document() for record in found]}
            table = as_text(records_table(found)) if found and not console.as_json else ""
            is_any = kind is None and user_id is None
            none = "the log is empty" if is_any else "the log has no such record"
            console.emit(document, table or none)
            return

        def show(record: TailedRecord) -> None:
            line = record.document() if console.as_json else None
            click.echo(json.dumps(line, ensure_ascii=False) if line else record_line(record))

        def pause() -> bool:
            sys.stdout.flush()
            time.sleep(POLL_S)
            return True

        for record in found:
            show(record)
        follow_records(log, wanted, show, pause)


@events.command(
    epilog="""\b
    Examples:
      cluster events replay --features
      cluster events replay --features --from-lake
      cluster events replay --evidence
      cluster events replay --evidence --from-lake

    Serving goes on meanwhile, from the present values; the new ones take their place at the end.
    """
)
@click.option("--features", "features", is_flag=True, help="Rebuild the online features.")
@click.option("--evidence", "evidence", is_flag=True, help="Rebuild sessions and attribution.")
@click.option("--from-lake", is_flag=True, help="Begin with the lake, for what the log dropped.")
@click.pass_context
def replay(ctx: click.Context, features: bool, evidence: bool, from_lake: bool) -> None:
    """Compute live features or evidence anew, from the log or from the lake and the log."""
    from cluster.learning_commands import run_learning

    if not features and not evidence:
        raise click.UsageError("name what to compute anew: --features, --evidence, or both")
    arguments = ["replay"]
    arguments += ["--features"] if features else []
    arguments += ["--evidence"] if evidence else []
    arguments += ["--from-lake"] if from_lake else []
    ctx.exit(run_learning(ctx.obj, arguments)[0])


@events.command(
    epilog="""\b
    Examples:
      cluster events forget alice
      cluster --json events forget alice --yes | jq .remaining
    """
)
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def forget(ctx: click.Context, user: str, yes: bool) -> None:
    """Remove all that is known of USER: log, lake, features, evidence.

    It cannot be undone. Serving goes on; the next answer for USER is that for an unknown user.
    What cannot be removed at once is said, with when it will be gone.
    """
    from cluster.learning_commands import run_learning
    from recsys.events import MAX_ID_BYTES

    console: Console = ctx.obj
    if not 1 <= len(user.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES:
        raise click.BadParameter(
            f"a user id has 1 to {MAX_ID_BYTES} bytes of UTF-8, expected one", param_hint="USER"
        )
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError(f"forgetting '{user}' cannot be undone; say --yes to do it")
        click.confirm(f"Forget user '{user}'? It cannot be undone.", abort=True, err=True)
    ctx.exit(run_learning(console, ["forget", "--", user])[0])


def records_table(records: list[TailedRecord]) -> Table:
    """One line per record."""
    from rich.table import Table

    table = Table("time", "place", "kind", "user", "item", "what")
    for record in records:
        table.add_row(*_cells(record))
    return table


def record_line(record: TailedRecord) -> str:
    """The same as text, for a terminal that goes on."""
    return "  ".join(cell for cell in _cells(record) if cell)


def _cells(record: TailedRecord) -> tuple[str, str, str, str, str, str]:
    from cluster.log_tail import kinds_of

    moment = datetime.fromtimestamp(record.time_ms / 1000, UTC)
    shown_time = moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if record.time_ms else ""
    return (
        shown_time,
        f"{record.partition}/{record.offset}",
        kinds_of(record.event)[0],
        getattr(record.event, "user_id", ""),
        getattr(record.event, "item_id", ""),
        what_happened(record.event) if record.event is not None else record.problem,
    )


def what_happened(event: Event) -> str:
    """The rest of an event in a few words."""
    from recsys.events import CatalogueChange, Engagement, Impression, Outcome, ShadowAnswer

    match event:
        case Engagement():
            value = "" if event.value is None else f" value {event.value:g}"
            position = "" if event.position is None else f" at position {event.position}"
            return f"{event.origin}{value}{position}"
        case Impression():
            return f"{len(event.slate)} items of {event.bundle_id} ({event.variant})"
        case Outcome():
            return f"{event.status} {event.reason}, {event.latency_ms:.0f} ms"
        case ShadowAnswer():
            return f"{event.status} {event.reason}, {len(event.items)} items of {event.bundle_id}"
        case CatalogueChange():
            return "deleted" if event.deleted else event.title
        case _:
            return ""
