"""Finds events that the lake has already: Kafka may bring one twice, a row may stand there once.

Suspects come from `recent_ids`; the lake's own rows decide.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import numpy as np
import pyarrow as pa

from recsys.events import Engagement, Event
from train_app.lake.archiving.archive_batch import to_skipped
from train_app.lake.archiving.filled_table import FilledTable
from train_app.lake.archiving.recent_ids import MAX_IDS, RecentIds, id_hashes, repeated_in
from train_app.lake.event_columns import Decoded, Rows
from train_app.lake.lake_errors import lake_errors
from train_app.lake.upkeep.bounded_reading import bounded_connection

EVENT_TABLES = ("engagements", "impressions", "outcomes", "shadows", "catalogue")
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
        self._lowest: dict[str, dict[int, int]] = {}
        """By table and partition the lowest offset of which an id may be remembered."""

    def load(self, tables: Iterable[FilledTable], partitions: Collection[int]) -> None:
        """Learn the newest ids of these partitions from the lake, and let go of all others."""
        self._recent = RecentIds(self._window_ms, self._max_ids)
        self._lowest = {}
        if not partitions:
            return
        n_back = self._max_ids // len(partitions)
        for target in tables:
            if target.name in EVENT_TABLES:
                bounds = {p: (target.marks[p] or 0) - n_back for p in partitions}
                with lake_errors("read", target.table.location):
                    self._lowest[target.name] = self._load_table(target, bounds)

    def drop(self, decoded: Decoded, tables: Mapping[str, FilledTable], now_ms: int) -> None:
        """Move rows whose event stands at a lower offset of its partition to `skipped`."""
        for name in EVENT_TABLES:
            rows = decoded.rows[name]
            suspects = self._suspects(rows, tables[name])
            if suspects:
                known = _first_offsets(rows, suspects)
                lowest = self._lowest.get(name, {})
                with lake_errors("read", tables[name].table.location):
                    _lower(known, _stored_offsets(tables[name], list(known), lowest))
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

    def _suspects(self, rows: Rows, target: FilledTable) -> list[int]:
        """Indexes of the rows whose event may be there already, in the order of the rows.

        A row the table has itself is none: what was decided of it stays.
        """
        if not len(rows):
            return []
        hashes, partitions = id_hashes(rows.event_ids()), np.array(rows.partitions)
        found, offsets = np.zeros(len(rows), dtype=np.bool_), np.array(rows.offsets)
        for partition in np.unique(partitions).tolist():
            here = partitions == partition
            mine = hashes[here]
            suspect = self._recent.suspects(partition, mine) | repeated_in(mine)
            found[here] = suspect & (offsets[here] >= (target.marks.get(partition) or 0))
        return np.flatnonzero(found).tolist()

    def _load_table(self, target: FilledTable, bounds: Mapping[int, int]) -> dict[int, int]:
        """Remember the ids from these offsets on; the lowest offset remembered, by partition."""
        # Where nothing is remembered, only what is yet to be filled can be.
        lowest = {partition: target.marks[partition] or 0 for partition in bounds}
        time = "received_at_ms" if target.name == "engagements" else "timestamp_ms"
        with bounded_connection() as connection:
            target.table.attach(connection, "rows")
            for partition, bound in bounds.items():
                near = f"FROM rows WHERE log_partition = {partition} AND log_offset >= {bound}"
                # The window is counted back from the newest record: a log read days later is
                # judged alike.
                newest = connection.execute(f"SELECT max({time}) {near}").fetchall()
                if newest[0][0] is None:
                    continue
                wanted = connection.sql(
                    f"SELECT event_id, {time}, log_offset {near}"
                    f" AND {time} >= {newest[0][0] - self._window_ms}"
                )
                for batch in wanted.to_arrow_reader(_ROWS_PER_READ):
                    if not batch.num_rows:
                        continue
                    hashes = id_hashes(batch.column(0).to_pylist())
                    self._recent.remember(partition, hashes, int(batch.column(1).to_numpy().max()))
                    first = int(batch.column(2).to_numpy().min())
                    lowest[partition] = min(first, lowest[partition])
        return lowest


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
    target: FilledTable, keys: list[tuple[int, str]], lowest: Mapping[int, int]
) -> Iterable[tuple[int, str, int]]:
    """Where the lake has these events, from the lowest offset on whose id was remembered."""
    asked = pa.table(
        {
            "log_partition": pa.array([partition for partition, _ in keys], pa.int32()),
            "event_id": pa.array([event_id for _, event_id in keys], pa.string()),
            "lowest": pa.array([lowest.get(partition, 0) for partition, _ in keys], pa.int64()),
        }
    )
    # The number tells DuckDB which files it need not open.
    bound = min(lowest.get(partition, 0) for partition, _ in keys)
    with bounded_connection() as connection:
        target.table.attach(connection, "rows")
        connection.register("asked", asked)
        found: list[tuple[int, str, int]] = connection.execute(
            "SELECT log_partition, event_id, min(log_offset) FROM rows"
            " JOIN asked USING (log_partition, event_id)"
            f" WHERE log_offset >= {bound} AND log_offset >= lowest GROUP BY ALL"
        ).fetchall()
    return found


def _lower(known: dict[tuple[int, str], int], stored: Iterable[tuple[int, str, int]]) -> None:
    for partition, event_id, offset in stored:
        key = (partition, event_id)
        known[key] = min(known[key], offset)
