"""The only writer of shadows in the control store.

Every change is a compare-and-set in one transaction with its line of history and a new revision of
the store, so that gateways see it at their next poll. A closed shadow is never opened again.
"""

from __future__ import annotations

from typing import TypeAlias

from cluster.rollouts.storing.control_transactions import ControlTransactions
from cluster.rollouts.storing.rows_beside import RowsBeside, Stored
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from recsys.errors import RolloutConflict
from recsys.stores.control import control_tables as tables

StoredShadow: TypeAlias = Stored[ShadowRecord]
SHADOW_ROWS = RowsBeside(tables.shadows, "shadow", "status", ShadowRecord.from_json)


class ShadowWriter:
    """Writes shadows of the control store at an SQLAlchemy URL; makes it at the first write."""

    def __init__(self, url: str) -> None:
        self._store = ControlTransactions(url)

    def start(self, record: ShadowRecord, who: str, now_ms: int) -> StoredShadow:
        """Record a new shadow; every replica then loads its bundle.

        Raises:
            RolloutConflict: the id is taken, or an operator's shadow of the bundle is open.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            if SHADOW_ROWS.find(connection, record.shadow_id) is not None:
                raise RolloutConflict(
                    f"shadow {record.shadow_id} is there already, expected a new id; "
                    "look with 'cluster shadow status' and try again"
                )
            for other in SHADOW_ROWS.all(connection, only_open=True):
                if _is_rival(other.record, record):
                    raise RolloutConflict(
                        f"shadow {other.record.shadow_id} of {record.bundle_id} is "
                        f"{other.record.state}, and there is one of a bundle at a time; "
                        "look with 'cluster shadow status' or end it with 'cluster shadow stop'"
                    )
            return SHADOW_ROWS.insert(connection, record, who, now_ms, _share(record))

    def set_running(
        self, shadow_id: str, expected_revision: int, who: str, now_ms: int
    ) -> StoredShadow:
        """Let gateways copy requests to it; done already is done.

        Raises:
            RolloutConflict: somebody else changed or ended it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = SHADOW_ROWS.get(connection, shadow_id)
            if found.record.state is ShadowState.RUNNING:
                return found
            SHADOW_ROWS.expect(found, expected_revision)
            running, why = found.record.running(), _share(found.record)
            return SHADOW_ROWS.update(connection, found, running, who, now_ms, why)

    def close(
        self, shadow_id: str, expected_revision: int, who: str, now_ms: int, why: str
    ) -> StoredShadow:
        """End a shadow, after which nobody needs its bundle for it; done already is done.

        Raises:
            RolloutConflict: somebody else changed it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            return SHADOW_ROWS.stop(connection, shadow_id, expected_revision, who, now_ms, why)

    def ensure_running(self, record: ShadowRecord, who: str, now_ms: int) -> StoredShadow:
        """What is stored of this shadow, which runs now unless it was closed before.

        Raises:
            RolloutConflict: a shadow of this id has another bundle.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = SHADOW_ROWS.find(connection, record.shadow_id)
            if found is None:
                begun = record.running()
                return SHADOW_ROWS.insert(connection, begun, who, now_ms, _share(record))
            if found.record.bundle_id != record.bundle_id:
                raise RolloutConflict(
                    f"shadow {record.shadow_id} is of {found.record.bundle_id}, expected "
                    f"{record.bundle_id}; look with 'cluster shadow status'"
                )
            if found.record.state is not ShadowState.PREPARING:
                return found
            running, why = found.record.running(), _share(found.record)
            return SHADOW_ROWS.update(connection, found, running, who, now_ms, why)

    def ensure_closed(self, shadow_id: str, who: str, now_ms: int, why: str) -> StoredShadow | None:
        """What is stored of this shadow, which is closed now; None if there never was one.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.find(shadow_id) is None:
            return None
        with self._store.change() as connection:
            return SHADOW_ROWS.stop(connection, shadow_id, None, who, now_ms, why)

    def find(self, shadow_id: str) -> StoredShadow | None:
        """The shadow of an id, if there is one.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._store.read(lambda connection: SHADOW_ROWS.find(connection, shadow_id), None)

    def all(self) -> list[StoredShadow]:
        """Every shadow, oldest first.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._store.read(SHADOW_ROWS.all, [])

    def open(self) -> list[StoredShadow]:
        """Shadows that are not closed, oldest first.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._store.read(lambda connection: SHADOW_ROWS.all(connection, only_open=True), [])

    def give_back(self) -> None:
        """Close the connections."""
        self._store.close()


def _is_rival(other: ShadowRecord, record: ShadowRecord) -> bool:
    both_are_operators = other.rollout_id is None and record.rollout_id is None
    return both_are_operators and other.bundle_id == record.bundle_id


def _share(record: ShadowRecord) -> str:
    return f"share {record.share:g} of the requests"
