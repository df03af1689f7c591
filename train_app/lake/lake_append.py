"""Appends rows to one table of the lake: files first, then one commit that shows them all.

Knows files, commits and marks; not what rows mean. Who appends is named in `lake_tables`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import Schema
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import (
    AddAction,
    CommitProperties,
    PostCommitHookProperties,
    RemoveAction,
    Transaction,
)

from train_app.lake.lake_errors import MarkMoved
from train_app.lake.lake_schema import PARTITION_COLUMN

if TYPE_CHECKING:
    from train_app.lake.lake_tables import LakeTable

MAX_ROWS_PER_FILE = 4_000_000
MAX_ATTEMPTS = 20
NOTE_KEY = "flywheel"
KEEP_LOGS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
"""Old commits are deleted by `lake_retention` alone, which knows what bundles still name."""
_EPOCH = date(1970, 1, 1)
_STATISTICS = ("timestamp_ms", "log_offset")


@dataclass
class Append:
    """Rows on their way into one table."""

    table: LakeTable
    filesystem: Any
    root: str
    new_id: Callable[[], str]
    n_rows: int = 0
    _actions: list[AddAction | RemoveAction] = field(default_factory=list)
    _open: _DayFile | None = None
    _outcome: Literal["none", "unknown", "committed"] = "none"

    def write(self, rows: pa.Table) -> None:
        """Add rows, which have every column; sorted by day over all calls makes fewest files."""
        if not rows.num_rows:
            return
        days = rows[PARTITION_COLUMN].cast(pa.int32()).to_numpy()
        cuts = np.flatnonzero(np.diff(days)) + 1
        starts = [0, *cuts.tolist()]
        for start, stop in zip(starts, [*cuts.tolist(), len(days)], strict=True):
            self._write_day(int(days[start]), rows.slice(start, stop - start))
        self.n_rows += rows.num_rows

    def commit(
        self, marks: Mapping[str, tuple[int | None, int]], note: Mapping[str, object]
    ) -> None:
        """Show all rows at once and move each mark from its expected value to its next.

        The commit goes through the same table object the marks are compared on, so of two
        writers that start from the same mark only one succeeds. A commit that lost against one
        with other marks is tried again on the newer version.

        Raises:
            MarkMoved: another writer moved a mark first; nothing was written.
        """
        self._close_day()
        properties = CommitProperties(
            custom_metadata={NOTE_KEY: json.dumps({**note, "rows": self.n_rows})},
            app_transactions=[Transaction(app_id, end) for app_id, (_, end) in marks.items()],
        )
        for attempt in range(1, MAX_ATTEMPTS + 1):
            self._refuse_moved_marks(marks)
            try:
                self._add_missing_columns()
                self.table.delta.create_write_transaction(
                    self._actions,
                    "append",
                    self.table.schema,
                    [PARTITION_COLUMN],
                    commit_properties=properties,
                    post_commithook_properties=KEEP_LOGS,
                )
            except (DeltaError, OSError) as error:
                self._outcome = "unknown"
                self.table.delta.update_incremental()
                if self._is_in_table(marks):
                    break
                self._outcome = "none"
                if not is_conflict(error) or attempt == MAX_ATTEMPTS:
                    raise
            else:
                break
        self._outcome = "committed"

    def discard(self) -> None:
        """Delete the files of an append that was not committed; a doubtful one keeps its files."""
        if self._open is not None:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._open.writer.close()
            self._remove(self._open.path)
            self._open = None
        if self._outcome == "none":
            for action in self._actions:
                self._remove(action.path)
            self._actions = []

    def _refuse_moved_marks(self, marks: Mapping[str, tuple[int | None, int]]) -> None:
        for app_id, (expected, _) in marks.items():
            found = self.table.mark(app_id)
            if found != expected:
                raise MarkMoved(
                    f"another writer committed to lake table {self.table.location} first ({app_id}"
                    f" is at {found}, expected {expected}); nothing was written, run it again once"
                    " the other has ended"
                )

    def _is_in_table(self, marks: Mapping[str, tuple[int | None, int]]) -> bool:
        """Whether a commit that reported a failure is there: its checkpoint alone may have failed.

        Deleting the files of such a commit would tear a hole into the table.
        """
        if not self._actions:
            return all(self.table.mark(app_id) == end for app_id, (_, end) in marks.items())
        path = self._actions[0].path
        return any(str(uri).endswith(path) for uri in self.table.delta.file_uris())

    def _add_missing_columns(self) -> None:
        """Columns that this release documents and the table was made without; old rows get null."""
        present = {column.name for column in self.table.delta.schema().fields}
        documented = Schema.from_arrow(self.table.schema).fields
        missing = [column for column in documented if column.name not in present]
        if missing:
            self.table.delta.alter.add_columns(missing, post_commithook_properties=KEEP_LOGS)

    def _write_day(self, day: int, rows: pa.Table) -> None:
        if self._open is not None and (
            self._open.day != day or self._open.n_rows >= MAX_ROWS_PER_FILE
        ):
            self._close_day()
        if self._open is None:
            folder = f"{PARTITION_COLUMN}={_EPOCH + timedelta(days=day)}"
            path = f"{folder}/part-{self.new_id()}.parquet"
            self.filesystem.create_dir(f"{self.root}/{folder}", recursive=True)
            schema = pa.schema([f for f in self.table.schema if f.name != PARTITION_COLUMN])
            place = f"{self.root}/{path}"
            # Noted before it is opened: opening may fail half-way and leave an empty file.
            try:
                writer = pq.ParquetWriter(
                    place, schema, filesystem=self.filesystem, compression="zstd"
                )
            except BaseException:
                self._remove(path)
                raise
            self._open = _DayFile(day, path, schema, writer)
        self._open.add(rows)

    def _close_day(self) -> None:
        if self._open is None:
            return
        done = self._open
        done.writer.close()
        size = self.filesystem.get_file_info(f"{self.root}/{done.path}").size
        day = {PARTITION_COLUMN: str(_EPOCH + timedelta(days=done.day))}
        statistics = json.dumps(done.statistics())
        now_ms = int(time.time() * 1000)
        self._actions.append(AddAction(done.path, size, day, now_ms, True, statistics))
        self._open = None

    def _remove(self, path: str) -> None:
        with contextlib.suppress(OSError):
            self.filesystem.delete_file(f"{self.root}/{path}")


def is_conflict(error: Exception) -> bool:
    """Whether a commit failed only because another one came first, so that it may be retried.

    A lost race for the same mark counts as one: the retry then finds the mark moved.
    """
    text = str(error).lower()
    return isinstance(error, CommitFailedError) and (
        "concurrent" in text
        or "conflict" in text
        or "metadata changed" in text
        or "failed to commit transaction" in text
        or "already exists" in text
    )


@dataclass
class _DayFile:
    """The Parquet file being written, all of one day."""

    day: int
    path: str
    schema: pa.Schema
    writer: pq.ParquetWriter
    n_rows: int = 0
    lows: dict[str, int] = field(default_factory=dict)
    highs: dict[str, int] = field(default_factory=dict)

    def add(self, rows: pa.Table) -> None:
        self.writer.write_table(rows.select(self.schema.names).cast(self.schema))
        self.n_rows += rows.num_rows
        for name in _STATISTICS:
            if name in self.schema.names:
                bounds = pc.min_max(rows[name]).as_py()
                if bounds["min"] is not None:
                    self.lows[name] = min(bounds["min"], self.lows.get(name, bounds["min"]))
                    self.highs[name] = max(bounds["max"], self.highs.get(name, bounds["max"]))

    def statistics(self) -> dict[str, object]:
        return {"numRecords": self.n_rows, "minValues": self.lows, "maxValues": self.highs}
