"""The only writer of shadows in the control store.

Every change is a compare-and-set in one transaction with its line of history and a new revision of
the store, so that gateways see it at their next poll. A closed shadow is never opened again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, select

from cluster.rollouts.storing.control_transactions import ControlTransactions
from cluster.shadows.shadow_record import (
    ShadowRecord,
    ShadowState,
    StoredShadow,
    read_shadow,
    shadow_columns,
)
from recsys.errors import RolloutConflict
from recsys.stores import control_tables as tables

T = TypeVar("T")
_VERB = "shadow"


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
            if _find(connection, record.shadow_id) is not None:
                raise RolloutConflict(
                    f"shadow {record.shadow_id} is there already, expected a new id; "
                    "look with 'cluster shadow status' and try again"
                )
            for other in _read(connection, only_open=True):
                if _is_rival(other.record, record):
                    raise RolloutConflict(
                        f"shadow {other.record.shadow_id} of {record.bundle_id} is "
                        f"{other.record.state}, and there is one of a bundle at a time; "
                        "look with 'cluster shadow status' or end it with 'cluster shadow stop'"
                    )
            return _insert(connection, record, who, now_ms)

    def set_running(
        self, shadow_id: str, expected_revision: int, who: str, now_ms: int
    ) -> StoredShadow:
        """Let gateways copy requests to it; done already is done.

        Raises:
            RolloutConflict: somebody else changed or ended it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = _get(connection, shadow_id)
            if found.record.state is ShadowState.RUNNING:
                return found
            if found.record.is_closed or found.revision != expected_revision:
                raise RolloutConflict(
                    f"somebody else changed shadow {shadow_id}, it is {found.record.state}; "
                    "look with 'cluster shadow status'"
                )
            why = f"share {found.record.share:g} of the requests"
            return _update(connection, found, found.record.running(), who, now_ms, why)

    def close(
        self, shadow_id: str, expected_revision: int, who: str, now_ms: int, why: str
    ) -> StoredShadow:
        """End a shadow, after which nobody needs its bundle for it; done already is done.

        Raises:
            RolloutConflict: somebody else changed it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = _get(connection, shadow_id)
            if found.record.is_closed:
                return found
            if found.revision != expected_revision:
                raise RolloutConflict(
                    f"somebody else changed shadow {shadow_id}, it is {found.record.state}; "
                    "look with 'cluster shadow status' and try again"
                )
            return _update(connection, found, found.record.stopped(now_ms, why), who, now_ms, why)

    def ensure_running(self, record: ShadowRecord, who: str, now_ms: int) -> StoredShadow:
        """What is stored of this shadow, which runs now unless it was closed before.

        Raises:
            RolloutConflict: a shadow of this id has another bundle.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = _find(connection, record.shadow_id)
            if found is None:
                return _insert(connection, record.running(), who, now_ms)
            if found.record.bundle_id != record.bundle_id:
                raise RolloutConflict(
                    f"shadow {record.shadow_id} is of {found.record.bundle_id}, expected "
                    f"{record.bundle_id}; look with 'cluster shadow status'"
                )
            if found.record.state is not ShadowState.PREPARING:
                return found
            why = f"share {found.record.share:g} of the requests"
            return _update(connection, found, found.record.running(), who, now_ms, why)

    def ensure_closed(self, shadow_id: str, who: str, now_ms: int, why: str) -> StoredShadow | None:
        """What is stored of this shadow, which is closed now; None if there never was one.

        Raises:
            StoreError: the store cannot be written.
        """
        if self.find(shadow_id) is None:
            return None
        with self._store.change() as connection:
            found = _get(connection, shadow_id)
            if found.record.is_closed:
                return found
            return _update(connection, found, found.record.stopped(now_ms, why), who, now_ms, why)

    def find(self, shadow_id: str) -> StoredShadow | None:
        """The shadow of an id, if there is one.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._reading(lambda connection: _find(connection, shadow_id), None)

    def all(self) -> list[StoredShadow]:
        """Every shadow, oldest first.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._reading(lambda connection: _read(connection, only_open=False), [])

    def open(self) -> list[StoredShadow]:
        """Shadows that are not closed, oldest first.

        Raises:
            StoreError: the store cannot be read.
        """
        return self._reading(lambda connection: _read(connection, only_open=True), [])

    def give_back(self) -> None:
        """Close the connections."""
        self._store.close()

    def _reading(self, read: Callable[[Connection], T], empty: T) -> T:
        return self._store.read(read, empty)


def _is_rival(other: ShadowRecord, record: ShadowRecord) -> bool:
    both_are_operators = other.rollout_id is None and record.rollout_id is None
    return both_are_operators and other.bundle_id == record.bundle_id


def _read(connection: Connection, *, only_open: bool) -> list[StoredShadow]:
    stored = tables.shadows
    query = select(stored).order_by(stored.c.started_ms, stored.c.shadow_id)
    if only_open:
        query = query.where(stored.c.is_closed.is_(False))
    return [read_shadow(dict(row)) for row in connection.execute(query).mappings()]


def _find(connection: Connection, shadow_id: str) -> StoredShadow | None:
    query = select(tables.shadows).where(tables.shadows.c.shadow_id == shadow_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else read_shadow(dict(row))


def _get(connection: Connection, shadow_id: str) -> StoredShadow:
    found = _find(connection, shadow_id)
    if found is None:
        raise RolloutConflict(
            f"there is no shadow {shadow_id}, expected one that was started; "
            "look with 'cluster shadow status'"
        )
    return found


def _insert(connection: Connection, record: ShadowRecord, who: str, now_ms: int) -> StoredShadow:
    stored = StoredShadow(record, 1)
    connection.execute(tables.shadows.insert().values(shadow_columns(stored)))
    _note(connection, record, who, now_ms, f"share {record.share:g} of the requests")
    return stored


def _update(
    connection: Connection,
    found: StoredShadow,
    record: ShadowRecord,
    who: str,
    now_ms: int,
    why: str,
) -> StoredShadow:
    stored = StoredShadow(record, found.revision + 1)
    where = tables.shadows.c.shadow_id == record.shadow_id
    connection.execute(tables.shadows.update().where(where).values(shadow_columns(stored)))
    _note(connection, record, who, now_ms, why)
    return stored


def _note(connection: Connection, record: ShadowRecord, who: str, now_ms: int, why: str) -> None:
    connection.execute(
        tables.history.insert().values(
            at_ms=now_ms,
            who=who,
            verb=_VERB,
            what=f"{record.shadow_id}: {record.bundle_id} is {record.state}",
            why=why,
        )
    )
    tables.bump_revision(connection)
