"""Which replicas of a worker live, and how far each has come: one row per replica.

A replica writes its own row, and on joining removes rows nobody has written for an hour.
Rows stand in the control store; what they are used for is `train_app.following.partition_share`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

from recsys.errors import StoreError

ARCHIVER = "archiver"
FEATURES = "features"
EVIDENCE = "evidence"
WORKERS = (ARCHIVER, FEATURES, EVIDENCE)
"""The followers of the log."""

SWEEP_AFTER_MS = 3_600_000
"""A row that was not written for so long is of a replica that is gone."""
KEEP_GAP_MS = 30 * 86_400_000
"""A row that tells of lost records stays so long."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Member:
    """What one replica last said of itself; counts are since its own start."""

    worker: str
    replica_id: str
    heartbeat_ms: int
    partitions: tuple[int, ...] = ()
    """The partitions it follows."""
    n_records: int = 0
    lag_records: int = 0
    """Records of its partitions that it has not taken yet."""
    freshness_s: float = 0.0
    """How long the oldest of those has waited."""
    n_bad: int = 0
    n_missed: int = 0
    """Records that were gone from the log before this replica could read them."""
    missed_ms: int = 0
    """When it last noticed such a gap; 0 is never."""
    n_repeated: int = 0
    problem: str = ""
    """Why it makes no progress; empty where it does."""


class Membership:
    """The rows of the workers' replicas.

    Args:
        url: SQLAlchemy URL of the control store.
    """

    def __init__(self, url: str) -> None:
        from recsys.stores.control import control_tables, membership_tables

        self._tables = membership_tables
        self._rows = membership_tables.members
        self._writer = control_tables.open_engine(url, writes=True, is_durable=False)
        self._reader = control_tables.open_engine(url, writes=False)
        self._is_created = False

    def join(self, now_ms: int) -> None:
        """Remove the rows of replicas that are gone; call once, before the first `beat`."""
        rows = self._rows.c
        is_gone = rows.heartbeat_ms < now_ms - SWEEP_AFTER_MS
        is_told = rows.missed_ms < now_ms - KEEP_GAP_MS
        self._write(
            lambda connection: connection.execute(self._rows.delete().where(is_gone, is_told))
        )

    def beat(self, member: Member) -> None:
        """Replace this replica's row.

        Raises:
            StoreError: the store is away; following does not need it, try again later.
        """
        values = asdict(member) | {"partitions": ",".join(map(str, member.partitions))}

        def replace(connection: Any) -> None:
            connection.execute(self._rows.delete().where(*self._of(member)))
            connection.execute(self._rows.insert().values(**values))

        self._write(replace)

    def leave(self, member: Member) -> None:
        """Remove this replica's row when it stops; one that tells of a gap stays, as not living."""
        mine = self._of(member)
        gone = self._rows.delete().where(*mine)
        silent = self._rows.update().where(*mine).values(heartbeat_ms=0)
        self._write(lambda connection: connection.execute(silent if member.n_missed else gone))

    def members(self, worker: str | None = None) -> list[Member]:
        """The rows of one worker, or of all; living or not: see `heartbeat_ms`.

        Raises:
            StoreError: the store is away.
        """
        query = self._rows.select().order_by(self._rows.c.worker, self._rows.c.replica_id)
        if worker is not None:
            query = query.where(self._rows.c.worker == worker)

        def read() -> list[Member]:
            self._is_created = self._is_created or self._tables.has_members(self._reader)
            if not self._is_created:
                return []
            with self._reader.begin() as connection:
                return [_member(row) for row in connection.execute(query).mappings()]

        return self._reaching(read)

    def close(self) -> None:
        """Give the connections back."""
        self._writer.dispose()
        self._reader.dispose()

    def _of(self, member: Member) -> tuple[Any, Any]:
        rows = self._rows.c
        return rows.worker == member.worker, rows.replica_id == member.replica_id

    def _write(self, write: Callable[[Any], object]) -> None:
        def run() -> None:
            if not self._is_created:
                self._tables.create_members(self._writer)
                self._is_created = True
            with self._writer.begin() as connection:
                write(connection)

        self._reaching(run)

    def _reaching(self, run: Callable[[], T]) -> T:
        from recsys.stores.control.control_tables import reaching

        try:
            return reaching(self._writer.url, run)
        except StoreError:
            # What comes back may be another, empty store.
            self._is_created = False
            raise


def _member(row: Any) -> Member:
    partitions = tuple(int(part) for part in row["partitions"].split(",") if part)
    return Member(**{**row, "partitions": partitions})
