"""The only writer of traffic plan, aliases, required bundles, rollouts, their turns and history.

Every change is a compare-and-set in one transaction: it happens if the store still is what the
caller saw, else `RolloutConflict` says what it is now. A change that is already there is done.
"""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, select

from cluster.rollouts.deciding.rollout_record import Rollout
from cluster.rollouts.deciding.rollout_turn import RecordedTurn, Turn, Verb
from cluster.rollouts.storing.control_transactions import ControlTransactions
from cluster.rollouts.storing.rollout_rows import Fence as Fence
from cluster.rollouts.storing.rollout_rows import HistoryEntry as HistoryEntry
from cluster.rollouts.storing.rollout_rows import StoredRollout as StoredRollout
from cluster.rollouts.storing.rollout_rows import (
    entry_of,
    read_rollout,
    read_turn,
    rollout_columns,
    turn_columns,
)
from recsys.errors import RolloutConflict
from recsys.stores.control import control_tables as tables
from recsys.traffic import TrafficPlan


class ControlWriter:
    """Writes the control store at an SQLAlchemy URL; makes it at the first write."""

    def __init__(self, url: str) -> None:
        self._store = ControlTransactions(url)

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

    def start_rollout(
        self, rollout: Rollout, who: str, now_ms: int, *, driven_ms: int | None = None
    ) -> StoredRollout:
        """Record a new rollout, if every earlier one is closed.

        Args:
            driven_ms: 0 leaves it to whoever drives rollouts; else the caller does.
        """
        stored = StoredRollout(rollout, 1, who, now_ms if driven_ms is None else driven_ms)
        with self._change(None) as connection:
            row = connection.execute(_open()).mappings().first()
            if row is not None:
                raise _one_at_a_time(read_rollout(row).rollout)
            connection.execute(
                tables.rollouts.insert().values(
                    rollout_id=rollout.rollout_id,
                    started_ms=rollout.started_ms,
                    **rollout_columns(stored),
                )
            )
            started = turn_columns(stored, Turn(Verb.START, now_ms), now_ms)
            connection.execute(tables.rollout_turns.insert().values(started))
            _append(connection, entry_of(rollout, who, now_ms))
        return stored

    def save_rollout(
        self,
        rollout: Rollout,
        expected_revision: int,
        who: str,
        now_ms: int,
        *,
        turn: Turn | None = None,
        driven_ms: int | None = None,
    ) -> StoredRollout:
        """Replace a rollout's record; a new phase or reason also goes into the history.

        Args:
            turn: what it was decided on; without one a replay begins anew at this record.
            driven_ms: 0 leaves it to whoever drives rollouts; else the caller does.
        """
        stored = tables.rollouts
        where = stored.c.rollout_id == rollout.rollout_id
        driven_ms = now_ms if driven_ms is None else driven_ms
        saved = StoredRollout(rollout, expected_revision + 1, who, driven_ms)
        with self._change(Fence(rollout.rollout_id, expected_revision)) as connection:
            before = read_rollout(connection.execute(select(stored).where(where)).mappings().one())
            connection.execute(stored.update().where(where).values(rollout_columns(saved)))
            made = turn_columns(saved, turn or Turn(Verb.START, now_ms), now_ms)
            connection.execute(tables.rollout_turns.insert().values(made))
            old = before.rollout
            if (old.phase, old.step, old.reason) != (rollout.phase, rollout.step, rollout.reason):
                _append(connection, entry_of(rollout, who, now_ms))
        return saved

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
        return self._store.read(
            lambda connection: [read_rollout(row) for row in connection.execute(order).mappings()],
            [],
        )

    def open_rollout(self) -> StoredRollout | None:
        """The one rollout that is not closed, if there is one."""
        return self._store.read(
            lambda connection: next(
                (read_rollout(row) for row in connection.execute(_open()).mappings()), None
            ),
            None,
        )

    def history(self) -> list[HistoryEntry]:
        """Every change of what runs, oldest first."""
        columns = [column for column in tables.history.c if column.name != "sequence"]
        order = select(*columns).order_by(tables.history.c.sequence)
        return self._store.read(
            lambda connection: [
                HistoryEntry(**row) for row in connection.execute(order).mappings()
            ],
            [],
        )

    def turns(self, rollout_id: str) -> list[RecordedTurn]:
        """Every move of a rollout, oldest first."""
        kept = tables.rollout_turns
        order = select(kept).where(kept.c.rollout_id == rollout_id).order_by(kept.c.number)
        return self._store.read(
            lambda connection: [read_turn(row) for row in connection.execute(order).mappings()], []
        )

    def close(self) -> None:
        """Give the store back."""
        self._store.close()

    @contextmanager
    def _change(self, fence: Fence | None) -> Generator[Connection]:
        with self._store.change() as connection:
            _check_fence(connection, fence)
            yield connection


def _check_fence(connection: Connection, fence: Fence | None) -> None:
    if fence is None:
        return
    stored = tables.rollouts
    where = stored.c.rollout_id == fence.rollout_id
    row = connection.execute(select(stored).where(where)).mappings().first()
    if row is None or row["revision"] != fence.revision:
        now = "gone" if row is None else f"{read_rollout(row).rollout.phase} by {row['driver']}"
        raise RolloutConflict(
            f"somebody else changed rollout {fence.rollout_id}, it is {now}; "
            "look with 'cluster canary status'"
        )


def _open() -> Any:
    return select(tables.rollouts).where(tables.rollouts.c.is_closed.is_(False))


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
