"""Rows of what runs beside the traffic plan: read, compared, written and noted in a transaction.

Knows the shape that `control_shadows` and `control_experiments` share; what may be written when is
their writers', `shadow_writer` and `experiment_writer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, Self, TypeVar

from sqlalchemy import Connection, Table, select

from recsys.errors import ConfigError, RolloutConflict, StoreError
from recsys.stores.control import control_tables as tables


class RecordBeside(Protocol):
    """What is recorded of a shadow or an experiment."""

    @property
    def key(self) -> str:
        """Its id."""
        ...

    @property
    def title(self) -> str:
        """What the history calls it."""
        ...

    @property
    def started_ms(self) -> int:
        """Unix time in milliseconds."""
        ...

    @property
    def state(self) -> str:
        """`preparing`, `running` or `stopped`."""
        ...

    @property
    def is_closed(self) -> bool:
        """Whether it has ended, which is for ever."""
        ...

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """What every replica holds until it is closed."""
        ...

    def plan_json(self) -> dict[str, Any]:
        """What gateways follow while it runs."""
        ...

    def to_json(self) -> dict[str, Any]:
        """All of it."""
        ...

    def stopped(self, now_ms: int, why: str) -> Self:
        """The same, ended."""
        ...


RecordT = TypeVar("RecordT", bound=RecordBeside)


@dataclass(frozen=True, slots=True)
class Stored(Generic[RecordT]):
    """A record as stored; the revision grows with each change of it."""

    record: RecordT
    revision: int


@dataclass(frozen=True, slots=True)
class RowsBeside(Generic[RecordT]):
    """One table of them."""

    table: Table
    """Its first column is the id."""
    verb: str
    """What they are: the command, and the verb of the history."""
    look: str
    """The command's verb that shows them."""
    from_json: Callable[[Mapping[str, Any]], RecordT]

    def all(self, connection: Connection, *, only_open: bool = False) -> list[Stored[RecordT]]:
        """Every one, oldest first.

        Raises:
            StoreError: a row holds none.
        """
        query = select(self.table).order_by(self.table.c.started_ms, *self.table.primary_key)
        if only_open:
            query = query.where(self.table.c.is_closed.is_(False))
        return [self.read(dict(row)) for row in connection.execute(query).mappings()]

    def find(self, connection: Connection, key: str) -> Stored[RecordT] | None:
        """The one of this id, if there is one."""
        query = select(self.table).where(self._is(key))
        row = connection.execute(query).mappings().first()
        return None if row is None else self.read(dict(row))

    def get(self, connection: Connection, key: str) -> Stored[RecordT]:
        """The one of this id.

        Raises:
            RolloutConflict: there is none.
        """
        found = self.find(connection, key)
        if found is None:
            raise RolloutConflict(
                f"there is no {self.verb} {key}, expected one that was started; {self._look}"
            )
        return found

    def expect(self, found: Stored[RecordT], revision: int) -> None:
        """Go on only if it is open and at this revision.

        Raises:
            RolloutConflict: somebody else changed or ended it.
        """
        if found.record.is_closed or found.revision != revision:
            raise RolloutConflict(
                f"somebody else changed {self.verb} {found.record.key}, it is "
                f"{found.record.state}; {self._look} and try again"
            )

    def insert(
        self, connection: Connection, record: RecordT, who: str, now_ms: int, why: str
    ) -> Stored[RecordT]:
        """Store a new one with its line of history."""
        stored = Stored(record, 1)
        connection.execute(self.table.insert().values(self.columns(stored)))
        self.note(connection, who, now_ms, f"{record.title} is {record.state}", why)
        return stored

    def update(
        self,
        connection: Connection,
        found: Stored[RecordT],
        record: RecordT,
        who: str,
        now_ms: int,
        why: str,
    ) -> Stored[RecordT]:
        """Store what became of one, at the next revision, with its line of history."""
        stored = Stored(record, found.revision + 1)
        where = self._is(record.key)
        connection.execute(self.table.update().where(where).values(self.columns(stored)))
        self.note(connection, who, now_ms, f"{record.title} is {record.state}", why)
        return stored

    def stop(
        self,
        connection: Connection,
        key: str,
        expected_revision: int | None,
        who: str,
        now_ms: int,
        why: str,
    ) -> Stored[RecordT]:
        """End one, if it is at that revision (None: at any); ended already is done.

        Raises:
            RolloutConflict: there is none, or somebody else changed it.
        """
        found = self.get(connection, key)
        if found.record.is_closed:
            return found
        if expected_revision is not None:
            self.expect(found, expected_revision)
        return self.update(connection, found, found.record.stopped(now_ms, why), who, now_ms, why)

    def note(self, connection: Connection, who: str, now_ms: int, what: str, why: str) -> None:
        """A line of history and a new revision of the store, which gateways follow."""
        line = {"at_ms": now_ms, "who": who, "verb": self.verb, "what": what, "why": why}
        connection.execute(tables.history.insert().values(line))
        tables.bump_revision(connection)

    def columns(self, stored: Stored[RecordT]) -> dict[str, Any]:
        """The row of one."""
        record = stored.record
        return {
            self._key.name: record.key,
            "revision": stored.revision,
            "is_closed": record.is_closed,
            "is_running": record.state == "running",
            "started_ms": record.started_ms,
            "bundles": json.dumps(record.bundle_ids),
            "plan": json.dumps(record.plan_json(), sort_keys=True),
            "document": json.dumps(record.to_json(), sort_keys=True),
        }

    def read(self, row: Mapping[str, Any]) -> Stored[RecordT]:
        """The one of a row.

        Raises:
            StoreError: the row holds none.
        """
        try:
            record = self.from_json(json.loads(row["document"]))
        except (ConfigError, KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.verb} '{row[self._key.name]}' in the control store cannot be read "
                f"({error!r}), expected what this release writes; end it with the release that "
                f"began it, or delete its row of {self.table.name}"
            ) from error
        return Stored(record, int(row["revision"]))

    @property
    def _key(self) -> Any:
        return self.table.primary_key.columns[0]

    def _is(self, key: str) -> Any:
        return self._key == key

    @property
    def _look(self) -> str:
        return f"look with 'cluster {self.verb} {self.look}'"
