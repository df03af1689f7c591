"""Finds events that the lake has already: Kafka may bring one twice, a row may stand there once.

Suspects come from `recent_ids`; the lake's own rows decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import duckdb
import numpy as np
import pyarrow as pa

from recsys.events import Engagement, Event
from train_app.lake.archive_batch import to_skipped
from train_app.lake.event_columns import Decoded, Rows
from train_app.lake.filled_table import FilledTable
from train_app.lake.lake_errors import lake_errors
from train_app.lake.recent_ids import MAX_IDS, RecentIds, id_hashes, repeated_in

EVENT_TABLES = ("engagements", "impressions", "outcomes", "catalogue")
_ROWS_PER_READ = 500_000


class RepeatedEvents:
    """What has been seen lately of the partitions being followed.

    Args:
        window_ms: an event that comes again within this time is found.
    """

    def __init__(self, window_ms: int, max_ids: int = MAX_IDS) -> None:
        self._window_ms = window_ms
        self._max_ids = max_ids
        self._recent = RecentIds(window_ms, max_ids)

    def load(self, tables: Iterable[FilledTable], partitions: Collection[int]) -> None:
        """Learn the newest ids of these partitions from the lake, and let go of all others."""
        self._recent = RecentIds(self._window_ms, self._max_ids)
        if not partitions:
            return
        n_back = self._max_ids // len(partitions)
        for target in tables:
            if target.name in EVENT_TABLES:
                bounds = {p: (target.marks[p] or 0) - n_back for p in partitions}
                with lake_errors("read", target.table.location):
                    self._load_table(target, bounds)

    def drop(self, decoded: Decoded, tables: Mapping[str, FilledTable], now_ms: int) -> None:
        """Move rows whose event stands at a lower offset of its partition to `skipped`."""
        for name in EVENT_TABLES:
            rows = decoded.rows[name]
            suspects = self._suspects(rows)
            if suspects:
                known = _first_offsets(rows, suspects)
                with lake_errors("read", tables[name].table.location):
                    _lower(known, _stored_offsets(tables[name], list(known)))
                doomed = [i for i in suspects if known[_key(rows, i)] < rows.offsets[i]]
                to_skipped(decoded, name, doomed, "repeated", now_ms)

    def remember(self, decoded: Decoded) -> None:
        """The rows have been committed: know them from now on."""
        for name in EVENT_TABLES:
            rows = decoded.rows[name]
            if not len(rows):
                continue
            hashes, partitions = id_hashes(rows.event_ids()), np.array(rows.partitions)
            times = np.array([_time_ms(entry) for entry in rows.entries])
            for partition in np.unique(partitions).tolist():
                here = partitions == partition
                self._recent.remember(partition, hashes[here], int(times[here].max()))

    def _suspects(self, rows: Rows) -> list[int]:
        """Indexes of the rows that may be there already, in the order of the rows."""
        if not len(rows):
            return []
        hashes, partitions = id_hashes(rows.event_ids()), np.array(rows.partitions)
        found = np.zeros(len(rows), dtype=np.bool_)
        for partition in np.unique(partitions).tolist():
            here = partitions == partition
            mine = hashes[here]
            found[here] = self._recent.suspects(partition, mine) | repeated_in(mine)
        return np.flatnonzero(found).tolist()

    def _load_table(self, target: FilledTable, bounds: Mapping[int, int]) -> None:
        connection = duckdb.connect()
        target.table.attach(connection, "rows")
        time = "received_at_ms" if target.name == "engagements" else "timestamp_ms"
        wanted = pa.table(
            {
                "log_partition": pa.array(bounds, pa.int32()),
                "lowest": pa.array(bounds.values(), pa.int64()),
            }
        )
        connection.register("wanted", wanted)
        # The window is counted back from the newest record: a log read days later is judged alike.
        near = connection.sql(f"""
            WITH near AS (SELECT log_partition, event_id, {time} AS time_ms
                FROM rows JOIN wanted USING (log_partition) WHERE log_offset >= lowest),
            newest AS (SELECT log_partition, max(time_ms) AS newest_ms FROM near GROUP BY ALL)
            SELECT log_partition, event_id, time_ms FROM near JOIN newest USING (log_partition)
            WHERE time_ms >= newest_ms - {self._window_ms}""")
        for batch in near.to_arrow_reader(_ROWS_PER_READ):
            partitions, times = batch.column(0).to_numpy(), batch.column(2).to_numpy()
            hashes = id_hashes(batch.column(1).to_pylist())
            for partition in np.unique(partitions).tolist():
                here = partitions == partition
                self._recent.remember(partition, hashes[here], int(times[here].max()))


def _key(rows: Rows, i: int) -> tuple[int, str]:
    return rows.partitions[i], rows.entries[i].event_id


def _time_ms(event: Event) -> int:
    """When it was received, where that is known; when it happened otherwise."""
    return event.received_at_ms if isinstance(event, Engagement) else event.timestamp_ms


def _first_offsets(rows: Rows, suspects: list[int]) -> dict[tuple[int, str], int]:
    """The lowest offset among these rows of every suspect event."""
    wanted = {_key(rows, i) for i in suspects}
    found: dict[tuple[int, str], int] = {}
    for i in range(len(rows)):
        key = _key(rows, i)
        if key in wanted:
            found[key] = min(rows.offsets[i], found.get(key, rows.offsets[i]))
    return found


def _stored_offsets(
    target: FilledTable, keys: list[tuple[int, str]]
) -> Iterable[tuple[int, str, int]]:
    """Where the lake has these events; events it has not are left out."""
    connection = duckdb.connect()
    target.table.attach(connection, "rows")
    asked = pa.table(
        {
            "log_partition": pa.array([partition for partition, _ in keys], pa.int32()),
            "event_id": pa.array([event_id for _, event_id in keys], pa.string()),
        }
    )
    connection.register("asked", asked)
    found: list[tuple[int, str, int]] = connection.execute(
        "SELECT log_partition, event_id, min(log_offset) FROM rows"
        " SEMI JOIN asked USING (log_partition, event_id) GROUP BY ALL"
    ).fetchall()
    return found


def _lower(known: dict[tuple[int, str], int], stored: Iterable[tuple[int, str, int]]) -> None:
    for partition, event_id, offset in stored:
        key = (partition, event_id)
        known[key] = min(known[key], offset)
