"""A sound lake of ten days of visits, and rows that another program writes into it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake

from recsys.settings import Settings
from tests.example_lake import a_lake, an_engagement, an_entry, an_impression
from train_app.lake.lake_rows import complete_rows
from train_app.lake.lake_schema import PARTITION_COLUMN, TABLES

HOUR, DAY = 3_600_000, 86_400_000
NOW_MS = 1_767_268_800_000
"""2026-01-01T12:00:00Z"""
N_DAYS, USERS_PER_HOUR, N_USERS, N_ITEMS = 10, 25, 60, 400
Row = dict[str, Any]


@dataclass
class Rows:
    """The rows of a lake on their way, with the histories that serving would have read."""

    engagements: list[Row] = field(default_factory=list)
    impressions: list[Row] = field(default_factory=list)
    histories: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    def bring(self, user: str, items: Sequence[str], at_ms: int) -> None:
        """A history that was imported before anything was logged."""
        self.engagements += [
            an_engagement(
                user, item, at_ms - DAY + n, received_at_ms=at_ms, origin="import",
                log_partition=None, log_offset=None,
            )
            for n, item in enumerate(items)
        ]  # fmt: skip
        self.histories[user] += items

    def visit(self, user: str, item: str, at_ms: int, kind: str) -> None:
        """A slate of three items, and a reaction to the first of them."""
        history, offset = self.histories[user], len(self.engagements)
        slate = [item, f"{item}-b", f"{item}-c"]
        self.impressions.append(
            an_impression(
                user, slate, at_ms, history_version=len(history), history_items=history[-20:],
                log_offset=2 * offset, request_id=f"r-{offset}",
            )
        )  # fmt: skip
        self.engagements.append(
            an_engagement(
                user, item, at_ms + 1000, kind, request_id=f"r-{offset}", position=0,
                log_offset=2 * offset + 1, sequence=2 * offset + 1, value=1.0,
            )
        )  # fmt: skip
        history.append(item)


def rows(last_day_share: float = 1.0, late_kinds: Sequence[str] = ("click", "view")) -> Rows:
    """Imported histories, then ten days of visits, a few every hour, up to now.

    Args:
        last_day_share: visits of the last complete day, as a share of the others'.
        late_kinds: the kinds of the newest fifth.
    """
    made = Rows()
    start_ms = NOW_MS - N_DAYS * DAY
    for user in range(N_USERS):
        made.bring(f"u{user}", [f"i{(user * 31 + n) % N_ITEMS}" for n in range(25)], start_ms - DAY)
    n = 0
    for hour in range(N_DAYS * 24):
        at_ms = start_ms + hour * HOUR
        is_last_day = at_ms // DAY == NOW_MS // DAY - 1
        for visit in range(round(USERS_PER_HOUR * (last_day_share if is_last_day else 1.0))):
            n += 1
            kinds = late_kinds if hour >= N_DAYS * 24 * 0.8 else ("click", "view")
            made.visit(
                f"u{n % N_USERS}",
                f"i{(n * 7 + n // N_USERS) % N_ITEMS}",
                at_ms + visit * 60_000,
                kinds[n % 2],
            )
    return made


def built(folder: Path, made: Rows) -> Settings:
    """A lake of these rows."""
    catalogue = [an_entry(f"i{n}", NOW_MS - 20 * DAY, title=f"Title {n}") for n in range(N_ITEMS)]
    return a_lake(
        folder, engagements=made.engagements, impressions=made.impressions, catalogue=catalogue
    )


def append_foreign(settings: Settings, name: str, foreign: Sequence[Row], **constants: Any) -> None:
    """Rows that another program writes, past everything that Flywheel checks."""
    schema = pa.schema([one for one in TABLES[name] if one.name != PARTITION_COLUMN])
    table = complete_rows(name, pa.Table.from_pylist(list(foreign), schema), "timestamp_ms")
    for column, value in constants.items():
        at = table.schema.get_field_index(column)
        values = pa.repeat(pa.scalar(value, table.schema.field(at).type), table.num_rows)
        table = table.set_column(at, table.schema.field(at), values)
    write_deltalake(f"{settings.lake_location}/{name}", table, mode="append")


def a_row(number: int, at_ms: int = NOW_MS - 5_000, **fields: Any) -> Row:
    """One more engagement, the newest of its user."""
    return an_engagement(
        f"u{number}", f"i{number}", at_ms, event_id=f"more-{number}", log_offset=10**6 + number,
        sequence=10**6 + number, value=1.0, **fields,
    )  # fmt: skip
