"""What an operator does to experiments: start them once their bundles are resident, and end them.

Records before it acts and may be run again: whatever kills this process leaves a row that the same
command goes on from.
"""

from __future__ import annotations

from dataclasses import dataclass

from cluster.experiments.experiment_record import ExperimentRecord, ExperimentState
from cluster.experiments.experiment_writer import ExperimentWriter, StoredExperiment
from cluster.rollouts.deciding.observation import (
    bundle_health,
    expected_replicas,
    with_skew,
)
from cluster.rollouts.deciding.rollout_record import Health
from cluster.rollouts.driving.living_rows import LivingRows
from cluster.rollouts.driving.rollout_actions import POLL_S, Operator
from recsys.errors import AbortedByEvidence, FleetError, RolloutConflict, WaitTimeout
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader


@dataclass(frozen=True)
class ExperimentRunner:
    """Starts and stops experiments of one control store."""

    settings: Settings
    writer: ExperimentWriter
    reader: ControlReader
    operator: Operator

    def left(self, name: str, asked: dict[str, object]) -> StoredExperiment | None:
        """The open experiment of this name, if it was asked for in the same words.

        Raises:
            RolloutConflict: another one has the name, or it runs already.
        """
        for stored in self.writer.open_experiments():
            record = stored.record
            if record.name != name:
                continue
            if record.state is ExperimentState.PREPARING and dict(record.asked) == asked:
                return stored
            same = "the same" if dict(record.asked) == asked else "another"
            raise RolloutConflict(
                f"experiment {name} is {record.state} with {same} treatment, expected a name that "
                "no open experiment has; take another, or end that one with "
                f"'cluster experiment stop {name}'"
            )
        return None

    def check_alive(self) -> None:
        """Refuse while nothing could answer.

        Raises:
            FleetError: no gateway reports.
        """
        if not self._living_rows().has_gateway():
            raise FleetError(
                "no gateway reports to the control store, expected at least 1; "
                "start the cluster with 'cluster up --wait' and run it again"
            )

    def start(self, record: ExperimentRecord) -> StoredExperiment:
        """Record it, wait until every replica holds its bundles, and let it run.

        Raises:
            RolloutConflict: its name is taken, or its layer is full.
            AbortedByEvidence: a replica refuses a bundle; it is stopped then.
            WaitTimeout: the replicas are not ready in time; run it again to go on.
        """
        return self.go_on(self.writer.start(record, self.operator.clock()))

    def go_on(self, stored: StoredExperiment) -> StoredExperiment:
        """As `start`, of an experiment that was recorded before."""
        record = stored.record
        self._await_bundles(stored)
        return self.writer.set_running(
            record.experiment_id, stored.revision, self.operator.who, self.operator.clock()
        )

    def stop(self, stored: StoredExperiment, why: str) -> StoredExperiment:
        """End it; gateways follow within a poll, and its bundles may go."""
        return self.writer.stop(
            stored.record.experiment_id,
            stored.revision,
            self.operator.who,
            self.operator.clock(),
            why,
        )

    def _await_bundles(self, stored: StoredExperiment) -> None:
        expected, living = expected_replicas(self.settings), self._living_rows()
        give_up_ms = self.operator.clock() + self.settings.cluster.ready_timeout_s * 1000
        missing = list(stored.record.bundle_ids)
        while missing:
            now_ms, rows = self.operator.clock(), living.look()
            waits_for = []
            for bundle_id in missing:
                found = bundle_health(rows, expected, bundle_id, now_ms)
                found = with_skew(found, living.skews)
                if found.health is Health.FAILED:
                    self.stop(stored, found.message)
                    raise AbortedByEvidence(
                        f"experiment {stored.record.name} is stopped: {found.message}"
                    )
                if found.health is not Health.READY:
                    waits_for.append((bundle_id, found.message))
            missing = [bundle_id for bundle_id, _ in waits_for]
            if waits_for and now_ms > give_up_ms:
                raise WaitTimeout(
                    f"waited {self.settings.cluster.ready_timeout_s} s for "
                    f"{waits_for[0][1] or waits_for[0][0]}, expected every replica to hold the "
                    f"bundles of experiment {stored.record.name}; run the same command again to "
                    f"go on, or 'cluster experiment stop {stored.record.name}'"
                )
            if waits_for:
                self.operator.report(f"preparing: waits for {waits_for[0][1] or waits_for[0][0]}")
                self.operator.sleep(POLL_S)

    def _living_rows(self) -> LivingRows:
        return LivingRows(self.reader.readiness, self.operator.clock, self.operator.sleep)
