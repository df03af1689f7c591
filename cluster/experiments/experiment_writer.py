"""The only writer of experiments and their holdout in the control store.

Every change is a compare-and-set in one transaction with its line of history and a new revision of
the store, so that gateways see it at their next poll. A stopped experiment is never opened again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

from sqlalchemy import Connection, select

from cluster.experiments.experiment_record import ExperimentRecord, ExperimentState
from cluster.experiments.layer_slices import TOLERANCE, first_gap, free_gaps
from cluster.rollouts.storing.control_transactions import ControlTransactions
from cluster.rollouts.storing.rows_beside import RowsBeside, Stored
from recsys.errors import ConfigError, RolloutConflict
from recsys.stores.control import control_tables as tables

StoredExperiment: TypeAlias = Stored[ExperimentRecord]
EXPERIMENT_ROWS = RowsBeside(tables.experiments, "experiment", "list", ExperimentRecord.from_json)


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
            opened = [one.record for one in EXPERIMENT_ROWS.all(connection, only_open=True)]
            for other in opened:
                if other.name == record.name:
                    raise RolloutConflict(
                        f"experiment {record.name} is {other.state} since before, expected a name "
                        "that no open experiment has; take another, or end that one with "
                        f"'cluster experiment stop {record.name}'"
                    )
            if EXPERIMENT_ROWS.find(connection, record.experiment_id) is not None:
                raise RolloutConflict(
                    f"experiment {record.experiment_id} is there already; try again in a second"
                )
            placed = replace(record, begin=_place(record, opened))
            arms = ", ".join(arm.name for arm in record.arms)
            why = placed.declared.hypothesis or f"{arms} by {placed.declared.metric}"
            return EXPERIMENT_ROWS.insert(connection, placed, record.who, now_ms, why)

    def check_room(self, record: ExperimentRecord) -> None:
        """Refuse what `start` would refuse for want of room, before anything is made for it.

        Raises:
            RolloutConflict: its layer is full.
            StoreError: the store cannot be read.
        """
        _place(record, [one.record for one in self.open_experiments()])

    def set_running(
        self, experiment_id: str, expected_revision: int, who: str, now_ms: int
    ) -> StoredExperiment:
        """Let gateways assign users to it; done already is done.

        Raises:
            RolloutConflict: somebody else changed or ended it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            found = EXPERIMENT_ROWS.get(connection, experiment_id)
            if found.record.state is ExperimentState.RUNNING:
                return found
            EXPERIMENT_ROWS.expect(found, expected_revision)
            why = f"{found.record.share:.1%} of layer {found.record.layer}"
            running = found.record.running(now_ms)
            return EXPERIMENT_ROWS.update(connection, found, running, who, now_ms, why)

    def stop(
        self, experiment_id: str, expected_revision: int, who: str, now_ms: int, why: str
    ) -> StoredExperiment:
        """End it: its slice is free and nobody needs its bundles for it; done already is done.

        Raises:
            RolloutConflict: somebody else changed it.
            StoreError: the store cannot be written.
        """
        with self._store.change() as connection:
            return EXPERIMENT_ROWS.stop(
                connection, experiment_id, expected_revision, who, now_ms, why
            )

    def experiments(self) -> list[StoredExperiment]:
        """Every experiment, oldest first."""
        return self._store.read(EXPERIMENT_ROWS.all, [])

    def open_experiments(self) -> list[StoredExperiment]:
        """Those that are not stopped, oldest first."""
        return self._store.read(
            lambda connection: EXPERIMENT_ROWS.all(connection, only_open=True), []
        )

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
        names = ", ".join(dict.fromkeys(one.record.name for one in found))
        expected = f"expected one of: {names}" if names else "and none was started yet"
        raise ConfigError(
            f"there is no experiment '{name}', {expected}; see 'cluster experiment list --all'"
        )

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
            what, why = f"holdout {share:.1%}", f"was {before:.1%}"
            EXPERIMENT_ROWS.note(connection, who, now_ms, what, why)

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
