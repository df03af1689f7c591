"""`cluster features`: look into the online feature store. Changes nothing there."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from rich.console import RenderableType

    from recsys.types import UserState

SHOWN_EVENTS = 20
"""Events of a history in the table; the JSON document has all."""


@click.group(
    epilog="""\b
    Examples:
      cluster features get alice
    """
)
def features() -> None:
    """Look into the online feature store."""


@features.command(
    epilog="""\b
    Examples:
      cluster features get alice
      cluster --json features get alice | jq '.history | length'
    """
)
@click.argument("user")
@click.pass_obj
def get(console: Console, user: str) -> None:
    """Show what serving knows of USER: history, window counts, version and log offsets.

    An unknown user has an empty history and version 0, as serving sees it.
    """
    from cluster.status_facts import wall_clock_ms
    from recsys.stores.features.open_features import open_features

    settings = console.settings
    with closing(open_features(settings)) as store:
        (state,) = store.read_users([user])
        offsets = store.offsets()
    negative_kinds = frozenset(settings.events.negative_kinds)
    document = features_of(state, offsets, wall_clock_ms(), negative_kinds)
    console.emit(document, "" if console.as_json else as_text(*page(document)))


def features_of(
    state: UserState, offsets: Mapping[int, int], now_ms: int, negative_kinds: Collection[str]
) -> dict[str, Any]:
    """A user's features as a document; the history's newest event comes first."""
    from recsys.feature_definitions import WINDOWS_S, user_window_counts

    counts = user_window_counts(state.history, now_ms, negative_kinds)
    return {
        "user_id": state.user_id,
        "version": state.version,
        "n_events": len(state.history),
        "windows": [
            {"window_s": window_s, "positives": positives, "negatives": negatives}
            for window_s, positives, negatives in zip(
                WINDOWS_S, counts.positives, counts.negatives, strict=True
            )
        ],
        "history": [
            {"item_id": event.item_id, "kind": event.kind, "timestamp_ms": event.timestamp_ms}
            for event in reversed(state.history)
        ],
        "offsets": dict(sorted(offsets.items())),
    }


def page(document: Mapping[str, Any]) -> list[RenderableType]:
    """The document for a terminal."""
    from rich.table import Table
    from rich.text import Text

    user_id, n_events = document["user_id"], document["n_events"]
    if not document["version"]:
        return [Text(f"user {user_id} is unknown: serving answers with a cold start")]
    lines: list[RenderableType] = [
        Text(f"user {user_id} | version {document['version']} | {n_events} events in the history")
    ]
    windows = Table("window", "engagements", "negative", title="windows", title_justify="left")
    for row in document["windows"]:
        windows.add_row(f"{row['window_s']} s", str(row["positives"]), str(row["negatives"]))
    newest = document["history"][:SHOWN_EVENTS]
    history = Table("time", "kind", "item", title="history, newest first", title_justify="left")
    for row in newest:
        moment = datetime.fromtimestamp(row["timestamp_ms"] / 1000, UTC)
        history.add_row(moment.strftime("%Y-%m-%d %H:%M:%S"), row["kind"], row["item_id"])
    lines += [windows, history]
    if n_events > len(newest):
        lines.append(Text(f"and {n_events - len(newest)} older ones; --json has them all"))
    offsets = ", ".join(f"{part}: {offset}" for part, offset in document["offsets"].items())
    lines.append(Text(f"log offsets by partition: {offsets or 'none yet'}"))
    return lines
