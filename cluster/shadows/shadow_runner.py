"""Starts and ends an operator's shadow: checks, the wait for its replicas, the copies.

A start that was killed leaves a record that the next start goes on from; gateways and replicas
follow the control store alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cluster.rollouts.deciding.observation import (
    bundle_health,
    expected_replicas,
    with_skew,
)
from cluster.rollouts.deciding.rollout_record import Health
from cluster.rollouts.driving.living_rows import LivingRows
from cluster.rollouts.driving.rollout_actions import POLL_S, Operator
from cluster.rollouts.driving.rollout_request import RolloutRequest
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter, StoredShadow
from recsys.errors import ConfigError, FleetError, RolloutConflict, WaitTimeout
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader

DEFAULT_SHARE = 0.2


@dataclass(frozen=True)
class ShadowRunner:
    """What an operator does to shadows; every change is the writer's."""

    settings: Settings
    request: RolloutRequest
    writer: ShadowWriter
    reader: ControlReader
    operator: Operator

    def start(self, bundle_id: str, share: float | None, timeout_s: float) -> ShadowRecord:
        """Let a bundle get copies of requests, once every replica holds it.

        Args:
            share: of all requests; None for the share of the shadow that was left, else 0.2.
            timeout_s: how long its replicas may take.

        Raises:
            ConfigError: the bundle is stable already.
            BundleError: it is missing, damaged, or does not fit.
            FleetError: nothing runs, or a replica refused the bundle, which ends the shadow.
            RolloutConflict: its shadow has another share, or was ended meanwhile.
            WaitTimeout: not every replica held it in time; another start goes on.
        """
        stored = self._left(bundle_id, share)
        self.request.check(bundle_id, is_undo=False)
        self._check_alive()
        if stored is None:
            stored = self._record(bundle_id, DEFAULT_SHARE if share is None else share)
        if stored.record.state is ShadowState.RUNNING:
            return stored.record
        self._wait_until_ready(stored, timeout_s)
        now_ms = self.operator.clock()
        shadow_id, who = stored.record.shadow_id, self.operator.who
        return self.writer.set_running(shadow_id, stored.revision, who, now_ms).record

    def stop(self, name: str | None, why: str) -> ShadowRecord:
        """End a shadow; its bundle is unloaded unless something else needs it.

        Args:
            name: of the shadow or its bundle; None for the only one that an operator began.

        Raises:
            ConfigError: no open shadow is meant, or more than one.
            RolloutConflict: somebody else changed it, or it is a rollout's.
        """
        stored = chosen_open(self.writer.open(), name)
        now_ms = self.operator.clock()
        shadow_id, who = stored.record.shadow_id, self.operator.who
        return self.writer.close(shadow_id, stored.revision, who, now_ms, why).record

    def _left(self, bundle_id: str, share: float | None) -> StoredShadow | None:
        """The operator's open shadow of a bundle."""
        for stored in self.writer.open():
            record = stored.record
            if record.rollout_id is not None or record.bundle_id != bundle_id:
                continue
            if share not in (None, record.share):
                raise RolloutConflict(
                    f"shadow {record.shadow_id} of {bundle_id} is {record.state} with share "
                    f"{record.share:g}, expected {share:g}; end it with 'cluster shadow stop "
                    f"{record.shadow_id}' and start it again"
                )
            return stored
        return None

    def _record(self, bundle_id: str, share: float) -> StoredShadow:
        now_ms = self.operator.clock()
        moment = datetime.fromtimestamp(now_ms / 1000, UTC)
        record = ShadowRecord(
            shadow_id=f"s{moment:%Y%m%d-%H%M%S}-{now_ms % 1000:03d}",
            bundle_id=bundle_id,
            share=share,
            state=ShadowState.PREPARING,
            who=self.operator.who,
            started_ms=now_ms,
        )
        return self.writer.start(record, self.operator.who, now_ms)

    def _wait_until_ready(self, stored: StoredShadow, timeout_s: float) -> None:
        record = stored.record
        expected, rows = expected_replicas(self.settings), self._living_rows()
        give_up_ms = self.operator.clock() + timeout_s * 1000
        while True:
            now_ms = self.operator.clock()
            health = bundle_health(rows.look(), expected, record.bundle_id, now_ms)
            health = with_skew(health, rows.skews)
            if health.health is Health.READY:
                return
            if health.health is Health.FAILED:
                shadow_id, who = record.shadow_id, self.operator.who
                self.writer.close(shadow_id, stored.revision, who, now_ms, health.message)
                raise FleetError(
                    f"shadow {shadow_id} was stopped: {health.message}, expected every replica to "
                    "load it; nobody was answered from it. Train or compose another bundle"
                )
            self._check_open(record.shadow_id)
            if now_ms >= give_up_ms:
                raise WaitTimeout(
                    f"shadow {record.shadow_id} is still preparing after {timeout_s:g} s (waits "
                    f"for {health.message}), expected every replica to hold the bundle; go on with "
                    f"'cluster shadow start {record.bundle_id}' or end it with "
                    "'cluster shadow stop'"
                )
            self.operator.report(f"preparing: waits for {health.message}")
            self.operator.sleep(POLL_S)

    def _check_open(self, shadow_id: str) -> None:
        found = self.writer.find(shadow_id)
        if found is None or found.record.is_closed:
            raise RolloutConflict(
                f"shadow {shadow_id} was stopped meanwhile; see 'cluster canary history'"
            )

    def _check_alive(self) -> None:
        if not self._living_rows().has_gateway():
            raise FleetError(
                "no gateway reports to the control store, expected at least 1; "
                "start the cluster with 'cluster up --wait' and run it again"
            )

    def _living_rows(self) -> LivingRows:
        return LivingRows(self.reader.readiness, self.operator.clock, self.operator.sleep)


def chosen_open(stored: list[StoredShadow], name: str | None) -> StoredShadow:
    """The operator's open shadow of a name, or the only one that an operator began.

    Raises:
        ConfigError: there is none, or more than one.
        RolloutConflict: only a rollout's shadow has the name.
    """
    own = [one for one in stored if one.record.rollout_id is None]
    named = [one for one in stored if name in (one.record.shadow_id, one.record.bundle_id)]
    found = own if name is None else [one for one in own if one in named]
    if len(found) == 1:
        return found[0]
    if named and not found:
        raise RolloutConflict(
            f"shadow {named[0].record.shadow_id} belongs to rollout {named[0].record.rollout_id}, "
            "expected one that an operator began; end it with 'cluster canary step' or "
            "'cluster canary abort'"
        )
    listed = ", ".join(f"{one.record.shadow_id} of {one.record.bundle_id}" for one in own)
    if not listed:
        raise ConfigError("no shadow is open, expected one to stop; see 'cluster shadow status'")
    meant = "without a name" if name is None else f"by '{name}'"
    raise ConfigError(
        f"{len(found)} open shadows are meant {meant}, expected 1 of {listed}; name one, as in "
        f"'cluster shadow stop {own[-1].record.shadow_id}'"
    )
