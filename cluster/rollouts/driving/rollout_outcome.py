"""How a rollout ended, as an error with its exit code."""

from __future__ import annotations

from typing import NoReturn

from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from recsys.errors import AbortedByEvidence, FleetError, RolloutConflict


def raise_halted(rollout: Rollout) -> NoReturn:
    """Say by an error that a rollout can go neither on nor back."""
    raise FleetError(f"rollout {rollout.rollout_id} {rollout.message}")


def raise_for_outcome(rollout: Rollout) -> None:
    """Say by an error how a closed rollout failed; promoted is no error.

    Raises:
        AbortedByEvidence: replicas refused the bundle, or the judge did.
        RolloutConflict: an operator aborted it.
        FleetError: the fleet did not load or follow it in time.
    """
    if rollout.phase is not Phase.ABORTED:
        return
    message = (
        f"rollout {rollout.rollout_id} of {rollout.bundle_id} was aborted: {rollout.message}; "
        f"{rollout.stable_id} answers"
    )
    if rollout.reason is Reason.OPERATOR:
        raise RolloutConflict(message)
    if rollout.reason is Reason.LATE:
        raise FleetError(f"{message}; see 'cluster status', then start it again")
    raise AbortedByEvidence(message)
