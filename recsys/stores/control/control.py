"""What a running replica reads from the control store, and the readiness it reports back.

Reads plan, required bundles, aliases, running shadows and experiments, which operators write; the
readiness rows of a replica are written here, by that replica alone.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar, get_args

from recsys.errors import RecsysError, StoreError
from recsys.experiment_plan import NO_EXPERIMENTS, Experiments, plan_from_json
from recsys.shadow_plan import ShadowPlan
from recsys.traffic import TrafficPlan

logger = logging.getLogger(__name__)

NO_BUNDLE = ""
"""The bundle id in the row of a replica that lives and holds no bundle yet."""

ReadyState = Literal["loading", "ready", "failed"]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ControlView:
    """What should be true of the fleet, at one revision of the control store."""

    plan: TrafficPlan | None = None
    required: tuple[str, ...] = ()
    """Bundles every replica must hold."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    revision: int = 0
    shadows: tuple[ShadowPlan, ...] = ()
    """Running ones."""
    experiments: Experiments = NO_EXPERIMENTS
    """Running ones."""
    beside: tuple[str, ...] = ()
    """Bundles that shadows and experiments need, those that are still being prepared included."""


@dataclass(frozen=True, slots=True)
class Readiness:
    """What one replica last said of one bundle.

    A replica that holds none has a single row with bundle id `NO_BUNDLE`.
    """

    replica_id: str
    stage: str
    bundle_id: str
    state: ReadyState
    reason: str
    plan_epoch: int
    """The epoch of the traffic plan the replica follows; 0 if it follows none."""
    heartbeat_ms: int


class ControlReader:
    """Reads the control store; a store that was never written reads as an empty view."""

    def __init__(self, url: str) -> None:
        from recsys.stores.control import control_tables

        self._tables = control_tables
        self._engine = control_tables.open_engine(url, writes=False)
        self._last = ControlView()
        self._is_written = False

    def view(self) -> ControlView:
        """The present state; cheap while nothing has changed since the last call.

        Raises:
            StoreError: the store is away or unreadable; a caller keeps its last view.
        """
        last = self._last
        self._last = self._read(lambda connection: self._read_view(connection, last), last)
        return self._last

    def readiness(self) -> list[Readiness]:
        """The last words of all replicas, living or not: see `heartbeat_ms`."""
        return self._read(self._read_readiness, [])

    def _read(self, read: Callable[[Any], T], empty: T) -> T:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            self._is_written = self._is_written or self._tables.has_tables(self._engine)
            if not self._is_written:
                return empty
            with self._engine.begin() as connection:
                return read(connection)
        except SQLAlchemyError as error:
            raise _away(self._engine.url, error) from error

    def _read_readiness(self, connection: Any) -> list[Readiness]:
        rows = connection.execute(self._tables.replicas.select()).mappings()
        return [Readiness(**row) for row in rows]

    def _read_view(self, connection: Any, last: ControlView) -> ControlView:
        tables = self._tables
        revision = int(connection.execute(tables.head.select()).mappings().one()["revision"])
        if revision == last.revision:
            return last
        plan = connection.execute(tables.plans.select()).mappings().first()
        required = tables.required.select().order_by(tables.required.c.position)
        shadows = self._open_rows(connection, tables.shadows)
        experiments = self._open_rows(connection, tables.experiments)
        return ControlView(
            plan=None if plan is None else _parse_plan(plan["document"]),
            required=tuple(row.bundle_id for row in connection.execute(required)),
            aliases={
                row.name: row.bundle_id for row in connection.execute(tables.aliases.select())
            },
            revision=revision,
            shadows=tuple(_running(shadows, ShadowPlan.from_json)),
            experiments=Experiments(
                tuple(_running(experiments, plan_from_json)), self._holdout(connection)
            ),
            beside=_bundles_of(shadows + experiments),
        )

    def _open_rows(self, connection: Any, table: Any) -> list[Any]:
        """Rows of shadows or experiments that are not closed, oldest first."""
        if not self._has(connection, table):
            return []
        query = table.select().where(table.c.is_closed.is_(False)).order_by(table.c.started_ms)
        return list(connection.execute(query).mappings())

    def _holdout(self, connection: Any) -> float:
        table = self._tables.holdout
        if not self._has(connection, table):
            return 0.0
        row = connection.execute(table.select()).mappings().first()
        return 0.0 if row is None else float(row["share"])

    def _has(self, connection: Any, table: Any) -> bool:
        """Whether the store has a table; one of an earlier release lacks the newer ones."""
        from sqlalchemy import inspect

        return bool(inspect(connection).has_table(table.name))


class ReadinessReporter:
    """Writes the readiness rows of replicas in this process."""

    def __init__(self, url: str) -> None:
        from recsys.stores.control import control_tables

        self._replicas = control_tables.replicas
        self._create_tables = control_tables.create_tables
        self._engine = control_tables.open_engine(url, writes=True, is_durable=False)
        self._is_created = False

    def report(
        self,
        replica_id: str,
        stage: str,
        states: Mapping[str, tuple[str, str]],
        plan_epoch: int,
        now_ms: int,
    ) -> None:
        """Replace this replica's rows.

        Args:
            states: bundle id to state and reason (the reason of a failure, else empty).

        Raises:
            StoreError: the store is away; serving does not need it, try again at the next poll.
        """
        for bundle_id, (state, _) in states.items():
            if state not in get_args(ReadyState):
                raise StoreError(
                    f"readiness of {bundle_id} on {replica_id} is '{state}', "
                    f"expected one of {', '.join(get_args(ReadyState))}"
                )
        rows = [
            {
                "replica_id": replica_id,
                "bundle_id": bundle_id,
                "stage": stage,
                "state": state,
                "reason": reason,
                "plan_epoch": plan_epoch,
                "heartbeat_ms": now_ms,
            }
            for bundle_id, (state, reason) in (states or {NO_BUNDLE: ("loading", "")}).items()
        ]
        with self._write() as connection:
            connection.execute(self._of(replica_id))
            connection.execute(self._replicas.insert(), rows)

    def forget(self, replica_id: str) -> None:
        """Remove this replica's rows, when it stops."""
        with self._write() as connection:
            connection.execute(self._of(replica_id))

    def _of(self, replica_id: str) -> Any:
        return self._replicas.delete().where(self._replicas.c.replica_id == replica_id)

    @contextmanager
    def _write(self) -> Generator[Any]:
        from sqlalchemy.exc import SQLAlchemyError

        try:
            if not self._is_created:
                self._create_tables(self._engine)
                self._is_created = True
            with self._engine.begin() as connection:
                yield connection
        except SQLAlchemyError as error:
            self._is_created = False
            raise _away(self._engine.url, error) from error


def _running(rows: Sequence[Any], parse: Callable[[str], T]) -> list[T]:
    """What gateways follow of these rows; one that cannot be read keeps none of the others away."""
    plans = []
    for row in rows:
        if not row["is_running"]:
            continue
        try:
            plans.append(parse(row["plan"]))
        except RecsysError as error:
            logger.warning("not followed: %s", error)
    return plans


def _bundles_of(rows: Sequence[Any]) -> tuple[str, ...]:
    """The bundles that rows of shadows and experiments need, each once."""
    return tuple(dict.fromkeys(str(name) for row in rows for name in json.loads(row["bundles"])))


def _parse_plan(document: str) -> TrafficPlan:
    try:
        return TrafficPlan.from_json(json.loads(document))
    except (ValueError, KeyError, TypeError, RecsysError) as error:
        raise StoreError(
            f"the traffic plan in the control store cannot be read: {error}; "
            "set it again with 'cluster canary undo --to BUNDLE'"
        ) from error


def _away(url: object, error: Exception) -> StoreError:
    reason = str(getattr(error, "orig", None) or error)
    return StoreError(
        f"control store {url} cannot be used: {reason}; check that it runs and can be reached, "
        "or for a file its disk and permissions"
    )
