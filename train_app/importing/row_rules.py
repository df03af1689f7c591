"""The rules every engagement must keep, as one query over a batch of text columns.

A number is read as seconds, milliseconds, microseconds or nanoseconds by its size: between 1990
and now these ranges do not overlap, so every row tells its own unit.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa

from recsys.events import MAX_FUTURE_MS, MAX_ID_BYTES, MIN_TIMESTAMP_MS
from train_app.importing.raw_batch import LINE

UNTIMED_START_MS = 946_684_800_000
"""2000-01-01T00:00:00Z: row n of a file without times is taken to be n milliseconds after this."""
UNITS = ("s", "ms", "us", "ns", "ISO 8601")


@dataclass(frozen=True, slots=True)
class RowRules:
    """What of a file has a column, and what stands in for the others.

    Args:
        has: fields that have a column.
        kind: of rows without a kind column.
        now_ms: the clock's reading; times over an hour ahead of it are refused.
    """

    has: frozenset[str]
    kind: str
    now_ms: int

    def check(
        self, connection: duckdb.DuckDBPyConnection, rows: pa.Table, first_sequence: int
    ) -> pa.Table:
        """The rows as typed columns, with the reason where one is refused.

        Args:
            rows: text columns by field name, and `LINE`.
            first_sequence: added to the line, it is the row's place in the whole import.

        Returns:
            event_id, user_id, item_id, kind, timestamp_ms, value, sequence, unit, line, reason.
        """
        connection.register("raw_rows", rows)
        try:
            return connection.sql(self.query(first_sequence)).to_arrow_table()
        finally:
            connection.unregister("raw_rows")

    def query(self, first_sequence: int) -> str:
        """The SQL of `check`."""
        number = "TRY_CAST(trim(timestamp) AS DOUBLE)" if "timestamp" in self.has else "NULL"
        stamp = "TRY_CAST(trim(timestamp) AS TIMESTAMPTZ)" if "timestamp" in self.has else "NULL"
        kind = "kind" if "kind" in self.has else _quoted(self.kind)
        value = "trim(value)" if "value" in self.has else "''"
        return f"""
            WITH typed AS (
                SELECT user_id, item_id, {LINE} AS line, {first_sequence} + {LINE} AS sequence,
                    {kind} AS kind, {number} AS number, {stamp} AS stamp,
                    {value} AS value_text, TRY_CAST({value} AS DOUBLE) AS real_value
                FROM raw_rows
            ), timed AS (
                SELECT *, {self._unit()} AS unit FROM typed
            ), whole AS (
                SELECT *, {self._milliseconds()} AS timestamp_ms,
                    CASE WHEN isnan(real_value) THEN NULL ELSE real_value END AS value
                FROM timed
            )
            SELECT {self._event_id()} AS event_id, user_id, item_id, kind, timestamp_ms, value,
                sequence, unit, line, {self._reason()} AS reason
            FROM whole"""

    def _unit(self) -> str:
        if "timestamp" not in self.has:
            return "'order'"
        low, high = MIN_TIMESTAMP_MS, self.now_ms + MAX_FUTURE_MS
        cases = " ".join(
            f"WHEN number BETWEEN {low * scale:f} AND {high * scale:f} THEN '{unit}'"
            for unit, scale in (("s", 1e-3), ("ms", 1), ("us", 1e3), ("ns", 1e6))
        )
        iso = f"WHEN epoch_ms(stamp) BETWEEN {low} AND {high} THEN 'ISO 8601'"
        return f"CASE {cases} {iso} END"

    def _milliseconds(self) -> str:
        if "timestamp" not in self.has:
            return f"{UNTIMED_START_MS} + sequence"
        return """CASE unit WHEN 's' THEN CAST(round(number * 1000) AS BIGINT)
            WHEN 'ms' THEN CAST(floor(number) AS BIGINT)
            WHEN 'us' THEN CAST(floor(number / 1000) AS BIGINT)
            WHEN 'ns' THEN CAST(floor(number / 1000000) AS BIGINT)
            WHEN 'ISO 8601' THEN epoch_ms(stamp) END"""

    def _event_id(self) -> str:
        """Equal rows get equal ids; without times a row is told apart by its place."""
        parts = [f"strlen({name}), ':', {name}" for name in ("user_id", "item_id", "kind")]
        parts += ["timestamp_ms", "':'", "coalesce(value::VARCHAR, '')"]
        return f"md5(concat({', '.join(parts)}))::UUID"

    def _reason(self) -> str:
        cases = []
        for name in ("user_id", "item_id", "kind"):
            cases += [
                f"WHEN {name} IS NULL OR {name} = '' THEN '{name} is empty'",
                f"WHEN strlen({name}) > {MAX_ID_BYTES}"
                f" THEN '{name} is longer than {MAX_ID_BYTES} bytes'",
            ]
        if "timestamp" in self.has:
            known = "number IS NOT NULL OR stamp IS NOT NULL"
            cases += [
                f"WHEN unit IS NULL AND ({known})"
                " THEN 'timestamp is not between 1990 and an hour from now'",
                "WHEN unit IS NULL"
                " THEN 'timestamp is no number of s, ms, us or ns since 1970 and not ISO 8601'",
            ]
        if "value" in self.has:
            cases += [
                "WHEN value_text <> '' AND real_value IS NULL THEN 'value is not a number'",
                "WHEN isinf(real_value) THEN 'value is not finite'",
            ]
        return f"CASE {' '.join(cases)} END"


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
