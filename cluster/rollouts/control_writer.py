"""The only writer of traffic plan, aliases, required bundles, rollouts and history.

Every change is a compare-and-set in one transaction: it happens if the store still is what the
caller saw, else `RolloutConflict` says what it is now. A change that is already there is done.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import Connection, select
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from cluster.rollouts.rollout_record import Rollout
from recsys.errors import RolloutConflict, StoreError
from recsys.stores import control_tables as tables
from recsys.traffic import TrafficPlan

_SERIALIZATION_FAILURES = {"40001", "40P01"}
"""SQLSTATE of a transaction that lost against a concurrent one."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StoredRollout:
    """A rollout as stored, with who moves it and when they last did."""

    rollout: Rollout
    revision: int
    driver: str
    driven_ms: int


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One change of what runs."""

    at_ms: int
    who: str
    verb: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Fence:
    """A change made for a rollout happens only while its record is at this revision."""

    rollout_id: str
    revision: int


class ControlWriter:
    """Writes the control store at an SQLAlchemy URL; makes it at the first write."""

    def __init__(self, url: str) -> None:
        self._engine = tables.open_engine(url, writes=True)
        self._is_created = False

    def set_plan(
        self, plan: TrafficPlan, expected_epoch: int, *, fence: Fence | None = None
    ) -> None:
        """Put a plan of a higher epoch in force; an expected epoch of 0 means there is none."""
        document = json.dumps(plan.to_json(), sort_keys=True)
        with self._change(fence) as connection:
            row = connection.execute(select(tables.plans)).mappings().first()
            if row is not None and row["document"] == document:
                return
            epoch = 0 if row is None else int(row["epoch"])
            if epoch != expected_epoch or plan.epoch <= epoch:
                raise RolloutConflict(
                    f"the traffic plan is at epoch {epoch}, expected {expected_epoch} to set "
                    f"epoch {plan.epoch}; look with 'cluster canary status' and try again"
                )
            connection.execute(tables.plans.delete())
            connection.execute(
                tables.plans.insert().values(id=1, epoch=plan.epoch, document=document)
            )
            tables.bump_revision(connection)

    def set_alias(
        self, name: str, bundle_id: str, expected: str | None, *, fence: Fence | None = None
    ) -> None:
        """Let an alias name another bundle; an expected None means it names none yet."""
        aliases = tables.aliases
        with self._change(fence) as connection:
            found = connection.scalar(select(aliases.c.bundle_id).where(aliases.c.name == name))
            if found == bundle_id:
                return
            if found != expected:
                raise RolloutConflict(
                    f"alias {name} names {found or 'no bundle'}, expected {expected or 'none'}; "
                    "look with 'cluster canary status' and try again"
                )
            connection.execute(aliases.delete().where(aliases.c.name == name))
            connection.execute(aliases.insert().values(name=name, bundle_id=bundle_id))
            tables.bump_revision(connection)

    def set_required(
        self, bundle_ids: Sequence[str], expected: Sequence[str], *, fence: Fence | None = None
    ) -> None:
        """Change which bundles every replica must hold."""
        required = tables.required
        wanted = tuple(dict.fromkeys(bundle_ids))
        with self._change(fence) as connection:
            rows = connection.scalars(select(required.c.bundle_id).order_by(required.c.position))
            found = tuple(rows)
            if found == wanted:
                return
            if found != tuple(expected):
                raise RolloutConflict(
                    f"the required bundles are {', '.join(found) or 'none'}, expected "
                    f"{', '.join(expected) or 'none'}; look with 'cluster canary status' and "
                    "try again"
                )
            connection.execute(required.delete())
            if wanted:
                connection.execute(
                    required.insert(),
                    [{"position": i, "bundle_id": name} for i, name in enumerate(wanted)],
                )
            tables.bump_revision(connection)

    def start_rollout(self, rollout: Rollout, who: str, now_ms: int) -> StoredRollout:
        """Record a new rollout, if every earlier one is closed."""
        with self._change(None) as connection:
            row = connection.execute(_open()).mappings().first()
            if row is not None:
                raise _one_at_a_time(_stored(row).rollout)
            connection.execute(
                tables.rollouts.insert().values(
                    rollout_id=rollout.rollout_id,
                    started_ms=rollout.started_ms,
                    **_columns(rollout, 1, who, now_ms),
                )
            )
            _append(connection, _entry(rollout, who, now_ms))
        return StoredRollout(rollout, 1, who, now_ms)

    def save_rollout(
        self, rollout: Rollout, expected_revision: int, who: str, now_ms: int
    ) -> StoredRollout:
        """Replace a rollout's record; a new phase or reason also goes into the history."""
        stored = tables.rollouts
        where = stored.c.rollout_id == rollout.rollout_id
        with self._change(Fence(rollout.rollout_id, expected_revision)) as connection:
            before = _stored(connection.execute(select(stored).where(where)).mappings().one())
            connection.execute(
                stored.update()
                .where(where)
                .values(_columns(rollout, expected_revision + 1, who, now_ms))
            )
            old = before.rollout
            if (old.phase, old.step, old.reason) != (rollout.phase, rollout.step, rollout.reason):
                _append(connection, _entry(rollout, who, now_ms))
        return StoredRollout(rollout, expected_revision + 1, who, now_ms)

    def touch_rollout(self, fence: Fence, driver: str, now_ms: int) -> None:
        """Say that somebody still drives it; the record stays as it is."""
        stored = tables.rollouts
        with self._change(fence) as connection:
            connection.execute(
                stored.update()
                .where(stored.c.rollout_id == fence.rollout_id)
                .values(driver=driver, driven_ms=now_ms)
            )

    def append_history(self, entry: HistoryEntry) -> None:
        """Add one line to the history, which is never changed or shortened."""
        with self._change(None) as connection:
            _append(connection, entry)

    def forget_replicas(self) -> None:
        """Drop what replicas last said; those that live say it again at their next poll."""
        with self._change(None) as connection:
            connection.execute(tables.replicas.delete())

    def rollouts(self) -> list[StoredRollout]:
        """All rollouts, oldest first."""
        stored = tables.rollouts
        order = select(stored).order_by(stored.c.started_ms, stored.c.rollout_id)
        return self._read(
            lambda connection: [_stored(row) for row in connection.execute(order).mappings()], []
        )

    def open_rollout(self) -> StoredRollout | None:
        """The one rollout that is not closed, if there is one."""
        unfinished = [stored for stored in self.rollouts() if not stored.rollout.is_closed]
        return unfinished[0] if unfinished else None

    def history(self) -> list[HistoryEntry]:
        """Every change of what runs, oldest first."""
        columns = [column for column in tables.history.c if column.name != "sequence"]
        order = select(*columns).order_by(tables.history.c.sequence)
        return self._read(
            lambda connection: [
                HistoryEntry(**row) for row in connection.execute(order).mappings()
            ],
            [],
        )

    def _read(self, read: Callable[[Connection], T], empty: T) -> T:
        try:
            if not tables.has_tables(self._engine):
                return empty
            with self._engine.begin() as connection:
                return read(connection)
        except SQLAlchemyError as error:
            raise _away(self._engine.url, error) from error

    @contextmanager
    def _change(self, fence: Fence | None) -> Generator[Connection]:
        try:
            if not self._is_created:
                tables.create_tables(self._engine)
                self._is_created = True
            with self._engine.begin() as connection:
                _check_fence(connection, fence)
                yield connection
        except IntegrityError as error:
            raise RolloutConflict(_LOST_RACE) from error
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) in _SERIALIZATION_FAILURES:
                raise RolloutConflict(_LOST_RACE) from error
            raise _away(self._engine.url, error) from error
        except SQLAlchemyError as error:
            raise _away(self._engine.url, error) from error


_LOST_RACE = (
    "somebody else changed the rollout at the same moment; "
    "look with 'cluster canary status' and try again"
)


def _check_fence(connection: Connection, fence: Fence | None) -> None:
    if fence is None:
        return
    stored = tables.rollouts
    where = stored.c.rollout_id == fence.rollout_id
    row = connection.execute(select(stored).where(where)).mappings().first()
    if row is None or row["revision"] != fence.revision:
        now = "gone" if row is None else f"{_stored(row).rollout.phase} by {row['driver']}"
        raise RolloutConflict(
            f"somebody else changed rollout {fence.rollout_id}, it is {now}; "
            "look with 'cluster canary status'"
        )


def _open() -> Any:
    return select(tables.rollouts).where(tables.rollouts.c.is_closed.is_(False))


def _columns(rollout: Rollout, revision: int, who: str, now_ms: int) -> dict[str, Any]:
    return {
        "revision": revision,
        "is_closed": rollout.is_closed,
        "driver": who,
        "driven_ms": now_ms,
        "document": json.dumps(rollout.to_json()),
    }


def _stored(row: Any) -> StoredRollout:
    rollout = Rollout.from_json(json.loads(row["document"]))
    return StoredRollout(rollout, int(row["revision"]), str(row["driver"]), int(row["driven_ms"]))


def _entry(rollout: Rollout, who: str, now_ms: int) -> HistoryEntry:
    what = f"{rollout.rollout_id}: {rollout.stable_id} -> {rollout.bundle_id}"
    return HistoryEntry(now_ms, who, str(rollout.phase), what, rollout.message)


def _append(connection: Connection, entry: HistoryEntry) -> None:
    connection.execute(
        tables.history.insert().values(
            at_ms=entry.at_ms, who=entry.who, verb=entry.verb, what=entry.what, why=entry.why
        )
    )


def _one_at_a_time(rollout: Rollout) -> RolloutConflict:
    return RolloutConflict(
        f"rollout {rollout.rollout_id} of {rollout.bundle_id} is {rollout.phase}, and there is one "
        "at a time; wait with 'cluster canary status --wait', go on with 'cluster canary retry' "
        "or end it with 'cluster canary abort'"
    )


def _away(url: object, error: SQLAlchemyError) -> StoreError:
    return StoreError(
        f"control store {url} cannot be written: {getattr(error, 'orig', None) or error}; "
        "check its disk and permissions, or that its server runs"
    )
