"""Logged slates without their labels: who was shown what, where and when.

Labels are made of the engagements that a training may know (`scorer_slates`), so
nothing that was held out comes in here.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.types import RowArray, Source
from train_app.examples.diverted_engagements import is_diverted
from train_app.examples.interactions import Interactions
from train_app.importing.staging import open_database, scratch_folder
from train_app.lake.lake_tables import Lake


@dataclass(frozen=True, slots=True)
class ShownSlates:
    """S slates with K places; users and rows are those of the `Interactions` they go with."""

    users: NDArray[np.int64]  # [S]
    moments_ms: NDArray[np.int64]  # [S]
    rows: RowArray  # [S, K], -1 where a slate is shorter or its item has no row
    positions: NDArray[np.int32]  # [S, K], -1 where it is not known
    sources: NDArray[np.int8]  # [S, K], a `Source`
    ranks: RowArray  # [S, K], within the source

    def __len__(self) -> int:
        """Number of slates."""
        return len(self.users)


def load_shown_slates(
    log: Interactions, events: NDArray[np.int64], settings: Settings, window_ms: int
) -> ShownSlates:
    """The slates that events [E] of `log` may be reactions to, oldest first.

    Args:
        window_ms: an event reacts to slates that its user was shown within this time before it.

    Raises:
        StoreError: the lake cannot be read.
    """
    table = Lake(settings.lake_location).find("impressions")
    if table is None:
        return no_slates()
    scratch = settings.data_dir / "tmp"
    try:
        with scratch_folder(scratch) as folder, open_database(folder) as connection:
            table.attach(connection, "all_impressions")
            _register(connection, log, events, window_ms)
            return _read(connection, settings.train.diverted_to)
    except (OSError, duckdb.Error) as error:
        raise StoreError(
            f"could not read the slates of the lake {settings.lake_location}: {error}; check that"
            f" its files are whole and that {scratch} has space"
        ) from error


def no_slates() -> ShownSlates:
    """Where nothing was logged."""
    return ShownSlates(
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
        np.zeros((0, 1), np.int32),
        np.zeros((0, 1), np.int32),
        np.zeros((0, 1), np.int8),
        np.zeros((0, 1), np.int32),
    )


def _register(
    connection: duckdb.DuckDBPyConnection,
    log: Interactions,
    events: NDArray[np.int64],
    window_ms: int,
) -> None:
    """What the slates are looked up with: rows of users, items and sources, and the events."""
    connection.register("users", _numbered("user_id", log.user_ids))
    connection.register("items", _numbered("item_id", [item.item_id for item in log.items]))
    connection.register("sources", _numbered("source", [one.name.lower() for one in Source]))
    times_ms = log.timestamps_ms[events]
    acts = {
        "user_row": log.user_of_event()[events],
        "after_ms": times_ms - window_ms,
        "until_ms": times_ms,
    }
    connection.register("acts", pa.table(acts))


def _read(connection: duckdb.DuckDBPyConnection, side: str) -> ShownSlates:
    # What was done with other sides' slates is left out, so as they stand nobody liked them.
    own = f"WHERE NOT ({is_diverted(side)})" if side else ""
    # A replayed spool may have left an impression twice: its slate is read once.
    found = connection.sql(f"""
        SELECT dense_rank() OVER (ORDER BY timestamp_ms, event_id) - 1 AS slate, user_row,
            timestamp_ms, coalesce(items.row, -1) AS item_row,
            coalesce(slot.position, -1) AS position, coalesce(sources.row, -1) AS source,
            coalesce(slot.retrieval_rank, 0) AS rank
        FROM (SELECT event_id, user_row, timestamp_ms, unnest(slate) AS slot
            FROM (SELECT event_id, users.row AS user_row, timestamp_ms, slate
                FROM all_impressions JOIN users USING (user_id) {own}
                QUALIFY row_number() OVER (PARTITION BY event_id ORDER BY timestamp_ms) = 1) shown
            SEMI JOIN acts ON acts.user_row = shown.user_row
                AND shown.timestamp_ms > after_ms AND shown.timestamp_ms <= until_ms) slots
        LEFT JOIN items ON items.item_id = slot.item_id
        LEFT JOIN sources ON sources.source = slot.source
        ORDER BY slate, position""").fetchnumpy()
    return _as_slates({name: np.asarray(column, np.int64) for name, column in found.items()})


def _numbered(name: str, ids: list[str]) -> pa.Table:
    return pa.table({name: pa.array(ids, pa.string()), "row": np.arange(len(ids))})


def _as_slates(found: dict[str, NDArray[np.int64]]) -> ShownSlates:
    """One row per slate of what has one row per place, in the order of slates and places."""
    if not len(found["slate"]):
        return no_slates()
    _, begins, slate, lengths = np.unique(
        found["slate"], return_index=True, return_inverse=True, return_counts=True
    )
    place = np.arange(len(slate)) - begins[slate]

    def by_place(name: str) -> NDArray[np.int64]:
        values = np.full((len(begins), int(lengths.max())), -1, np.int64)
        values[slate, place] = found[name]
        return values

    return ShownSlates(
        users=found["user_row"][begins],
        moments_ms=found["timestamp_ms"][begins],
        rows=by_place("item_row").astype(np.int32),
        positions=by_place("position").astype(np.int32),
        sources=by_place("source").astype(np.int8),
        ranks=by_place("rank").astype(np.int32),
    )
