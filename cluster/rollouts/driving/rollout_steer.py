"""Whether an operator's word fits where a rollout stands. Pure; refuses with the mend."""

from __future__ import annotations

from cluster.rollouts.deciding.preparing import is_shadowing
from cluster.rollouts.deciding.rollout_record import Health, Phase, Reason, Rollout
from cluster.rollouts.deciding.rollout_turn import Turn, Verb
from recsys.errors import ConfigError, FleetError, RolloutConflict
from recsys.evidence.comparison import Verdict

_AT_A_STEP = (Phase.CANARY, Phase.PAUSED)
_WHERE: dict[Verb, tuple[Phase, ...]] = {
    Verb.PAUSE: (Phase.CANARY, Phase.PAUSED),
    Verb.RESUME: (Phase.PAUSED, Phase.CANARY),
    Verb.SKIP: _AT_A_STEP,
    Verb.PROMOTE: _AT_A_STEP,
}
_MORE_TRAFFIC = (Verb.SKIP, Verb.PROMOTE)


def word_of(verb: Verb) -> str:
    """What an operator calls it: the verb of `cluster canary`."""
    return "step" if verb is Verb.SKIP else str(verb)


def steered(rollout: Rollout, turn: Turn) -> Turn:
    """The turn, if the rollout can take it.

    Raises:
        RolloutConflict: it stands where the word means nothing.
        FleetError: more traffic while a replica does not hold the bundle.
        ConfigError: a promotion that the evidence does not bear and nobody asked for in full.
    """
    if turn.verb is Verb.SKIP and is_shadowing(rollout):
        return turn
    word = word_of(turn.verb)
    allowed = _WHERE[turn.verb]
    if rollout.phase not in allowed:
        raise RolloutConflict(
            f"rollout {rollout.rollout_id} is {rollout.phase}, expected "
            f"{' or '.join(allowed)} to {word}; see 'cluster canary status'"
        )
    if turn.verb is Verb.SKIP and rollout.step + 1 >= len(rollout.steps):
        raise RolloutConflict(
            f"rollout {rollout.rollout_id} is at step {rollout.step + 1} of {len(rollout.steps)}, "
            "expected an earlier one to step on from; give it all traffic with "
            "'cluster canary promote --full'"
        )
    if turn.verb in _MORE_TRAFFIC:
        _check_held(rollout, turn)
    if turn.verb is Verb.PROMOTE:
        _check_promotion(rollout, turn)
    return turn


def passes_last_step(rollout: Rollout) -> bool:
    """Whether the latest evidence at the last step passes it."""
    judged = rollout.judgement or {}
    is_last = rollout.step + 1 == len(rollout.steps)
    return is_last and judged.get("verdict") == str(Verdict.PASS)


def _check_held(rollout: Rollout, turn: Turn) -> None:
    seen = turn.seen
    if seen is None or seen.candidate.health is not Health.READY:
        said = "no replica was asked" if seen is None else seen.candidate.message
        raise FleetError(
            f"bundle {rollout.bundle_id} is not held by every replica ({said}), expected all "
            "before it gets more traffic; see 'cluster status'"
        )


def _check_promotion(rollout: Rollout, turn: Turn) -> None:
    is_borne = rollout.phase is Phase.CANARY and passes_last_step(rollout)
    if turn.reason is Reason.FORCED or is_borne:
        return
    judged = (rollout.judgement or {}).get("message") or "no evidence yet"
    raise ConfigError(
        f"rollout {rollout.rollout_id} is at step {rollout.step + 1} of {len(rollout.steps)} and "
        f"not passed ({judged}), expected a pass of the last step to promote; wait, or promote "
        "without it with 'cluster canary promote --full', which the history records"
    )
