"""The only writer of experiments and their holdout in the control store.

Every change is a compare-and-set in one transaction with its line of history and a new revision of
the store, so that gateways see it at their next poll. A stopped experiment is never opened again.
"""

from __future__ import annotations

from dataclasses import replace

from sqlalchemy import Connection, select

from cluster.experiments.experiment_record import (
    ExperimentRecord,
    ExperimentState,
    StoredExperiment,
    experiment_columns,
    read_experiment,
)
from cluster.experiments.layer_slices import TOLERANCE, first_gap, free_gaps
from cluster.rollouts.storing.control_transactions import ControlTransactions
from recsys.errors import ConfigError, RolloutConflict
from recsys.stores import control_tables as tables

_VERB = "experiment"
_LOOK = "look with 'cluster experiment list'"


class ExperimentWriter:
    """Writes experiments of the control store at an SQLAlchemy URL; made at the first write."""

    def __init__(self, url: str) -> None:
        self._store = ControlTransactions(url)

    def start(self, record: ExperimentRecord, now_ms: int) -> StoredExperiment:
        """Record a new experiment in the first free slice of its layer; its bundles load then.

        Raises:
            RolloutConflict: its name is taken by an open experiment, or the layer is full.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            opened = [one.record for one in _read(connection, only_open=True)]
            for other in opened:
                if other.name == record.name:
                    raise RolloutConflict(
                        f"experiment {record.name} is {other.state} since before, expected a name "
                        "that no open experiment has; take another, or end that one with "
                        f"'cluster experiment stop {record.name}'"
                    )
            if _find(connection, record.experiment_id) is not None:
                raise RolloutConflict(
                    f"experiment {record.experiment_id} is there already; try again in a second"
                )
            placed = replace(record, begin=_place(record, opened))
            stored = StoredExperiment(placed, 1)
            connection.execute(tables.experiments.insert().values(experiment_columns(stored)))
            arms = ", ".join(arm.name for arm in record.arms)
            why = placed.declared.hypothesis or f"{arms} by {placed.declared.metric}"
            _note(connection, placed, record.who, now_ms, why)
            return stored

    def set_running(
        self, experiment_id: str, expected_revision: int, who: str, now_ms: int
    ) -> StoredExperiment:
        """Let gateways assign users to it; done already is done.

        Raises:
            RolloutConflict: somebody else changed or ended it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = _get(connection, experiment_id)
            if found.record.state is ExperimentState.RUNNING:
                return found
            _expect(found, expected_revision)
            if found.record.is_closed:
                raise RolloutConflict(f"experiment {experiment_id} was stopped; {_LOOK}")
            why = f"{found.record.share:.1%} of layer {found.record.layer}"
            return _update(connection, found, found.record.running(now_ms), who, now_ms, why)

    def stop(
        self, experiment_id: str, expected_revision: int, who: str, now_ms: int, why: str
    ) -> StoredExperiment:
        """End it: its slice is free and nobody needs its bundles for it; done already is done.

        Raises:
            RolloutConflict: somebody else changed it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = _get(connection, experiment_id)
            if found.record.is_closed:
                return found
            _expect(found, expected_revision)
            return _update(connection, found, found.record.stopped(now_ms, why), who, now_ms, why)

    def experiments(self) -> list[StoredExperiment]:
        """Every experiment, oldest first."""
        return self._store.read(lambda connection: _read(connection, only_open=False), [])

    def open_experiments(self) -> list[StoredExperiment]:
        """Those that are not stopped, oldest first."""
        return self._store.read(lambda connection: _read(connection, only_open=True), [])

    def named(self, name: str) -> StoredExperiment:
        """The newest experiment of a name, or the one of this id.

        Raises:
            ConfigError: there is none.
        """
        # Open ones first, by themselves: an old record that cannot be read keeps none from them.
        found: list[StoredExperiment] = []
        for read in (self.open_experiments, self.experiments):
            found = read()
            for stored in reversed(found):
                if name in (stored.record.name, stored.record.experiment_id):
                    return stored
        names = ", ".join(dict.fromkeys(one.record.name for one in found)) or "none yet"
        raise ConfigError(f"there is no experiment '{name}', expected one of: {names}")

    def holdout(self) -> float:
        """The share of all users that no experiment gets."""
        table = tables.holdout

        def read(connection: Connection) -> float:
            row = connection.execute(select(table.c.share)).first()
            return 0.0 if row is None else float(row.share)

        return self._store.read(read, 0.0)

    def set_holdout(self, share: float, who: str, now_ms: int) -> None:
        """Keep this share of all users out of every experiment from now on.

        Raises:
            ConfigError: it is no share.
            StoreError: the store cannot be written.
        """
        if not 0.0 <= share < 1.0:
            raise ConfigError(f"holdout share {share} is none, expected one from 0 to below 1")
        table = tables.holdout
        with self._store.change() as connection:
            found = connection.execute(select(table.c.share)).first()
            if found is not None and abs(float(found.share) - share) < TOLERANCE:
                return
            connection.execute(table.delete())
            connection.execute(table.insert().values(id=1, share=share))
            before = 0.0 if found is None else float(found.share)
            _append(connection, who, now_ms, f"holdout {share:.1%}", f"was {before:.1%}")

    def close(self) -> None:
        """Give the connections back."""
        self._store.close()


def _place(record: ExperimentRecord, opened: list[ExperimentRecord]) -> float:
    """Where the first free slice of its layer begins.

    Raises:
        RolloutConflict: none is large enough; says what is free and who holds the rest.
    """
    rivals = [one for one in opened if one.layer is record.layer]
    taken = [(one.begin, one.share) for one in rivals]
    begin = first_gap(taken, record.share)
    if begin is None:
        free = ", ".join(f"{size:.1%}" for _, size in free_gaps(taken)) or "nothing"
        held = ", ".join(f"{one.name} ({one.share:.1%})" for one in rivals)
        raise RolloutConflict(
            f"layer {record.layer} is full: {record.name} asks for {record.share:.1%}, free is "
            f"{free}, the rest is held by {held}; ask for a smaller --share, or end one with "
            "'cluster experiment stop'"
        )
    return begin


def _expect(found: StoredExperiment, revision: int) -> None:
    if found.revision != revision:
        raise RolloutConflict(
            f"somebody else changed experiment {found.record.experiment_id}, it is "
            f"{found.record.state}; {_LOOK} and try again"
        )


def _read(connection: Connection, *, only_open: bool) -> list[StoredExperiment]:
    stored = tables.experiments
    query = select(stored).order_by(stored.c.started_ms, stored.c.experiment_id)
    if only_open:
        query = query.where(stored.c.is_closed.is_(False))
    return [read_experiment(dict(row)) for row in connection.execute(query).mappings()]


def _find(connection: Connection, experiment_id: str) -> StoredExperiment | None:
    query = select(tables.experiments).where(tables.experiments.c.experiment_id == experiment_id)
    row = connection.execute(query).mappings().first()
    return None if row is None else read_experiment(dict(row))


def _get(connection: Connection, experiment_id: str) -> StoredExperiment:
    found = _find(connection, experiment_id)
    if found is None:
        raise RolloutConflict(f"there is no experiment {experiment_id}; {_LOOK}")
    return found


def _update(
    connection: Connection,
    found: StoredExperiment,
    record: ExperimentRecord,
    who: str,
    now_ms: int,
    why: str,
) -> StoredExperiment:
    stored = StoredExperiment(record, found.revision + 1)
    where = tables.experiments.c.experiment_id == record.experiment_id
    connection.execute(tables.experiments.update().where(where).values(experiment_columns(stored)))
    _note(connection, record, who, now_ms, why)
    return stored


def _note(
    connection: Connection, record: ExperimentRecord, who: str, now_ms: int, why: str
) -> None:
    _append(connection, who, now_ms, f"{record.experiment_id} is {record.state}", why)


def _append(connection: Connection, who: str, now_ms: int, what: str, why: str) -> None:
    line = {"at_ms": now_ms, "who": who, "verb": _VERB, "what": what, "why": why}
    connection.execute(tables.history.insert().values(line))
    tables.bump_revision(connection)
