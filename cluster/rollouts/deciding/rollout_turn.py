"""One move of a rollout with everything it was decided on: pure, and enough to decide again.

Whoever moves a record does it through `decide`, so the recorded turns replay to the same records.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from itertools import pairwise
from typing import Any

import msgspec

from cluster.rollouts.deciding.rollout import abort, advance, pause, promote, resume, retry, skip
from cluster.rollouts.deciding.rollout_record import Observation, Reason, Rollout
from recsys.errors import StoreError
from recsys.evidence.judgement import Judgement


class Verb(StrEnum):
    """What moved it."""

    START = "start"
    ADVANCE = "advance"
    SETTLED = "settled"
    PAUSE = "pause"
    RESUME = "resume"
    SKIP = "skip"
    PROMOTE = "promote"
    RETRY = "retry"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Turn:
    """What a move was decided on."""

    verb: Verb
    at_ms: int
    seen: Observation | None = None
    judgement: Judgement | None = None
    reason: Reason = Reason.OPERATOR
    message: str = ""

    def to_json(self) -> dict[str, Any]:
        """The turn as a JSON object."""
        return {
            "verb": str(self.verb),
            "at_ms": self.at_ms,
            "observation": None if self.seen is None else asdict(self.seen),
            "judgement": None if self.judgement is None else self.judgement.to_json(),
            "reason": str(self.reason),
            "message": self.message,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Turn:
        """The turn of a JSON object.

        Raises:
            StoreError: it is none.
        """
        try:
            seen, judged = document["observation"], document["judgement"]
            return cls(
                Verb(document["verb"]),
                int(document["at_ms"]),
                None if seen is None else msgspec.convert(seen, Observation),
                None if judged is None else Judgement.from_json(judged),
                Reason(document["reason"]),
                str(document["message"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(
                f"a turn of a rollout cannot be read ({error}); "
                "use the release that made it to replay it"
            ) from error


@dataclass(frozen=True, slots=True)
class RecordedTurn:
    """A turn as it is kept: numbered, with the record it led to."""

    rollout_id: str
    number: int
    """The revision of the record it led to; 1 is the start."""
    who: str
    turn: Turn
    after: Rollout


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A recorded turn that decides otherwise when it is decided again."""

    number: int
    recorded: Rollout
    replayed: Rollout


def decide(rollout: Rollout, turn: Turn) -> Rollout:
    """The record that a turn leads to; a start leads to what it is given."""
    if turn.verb is Verb.SETTLED:
        return replace(rollout, is_settled=True)
    if turn.verb is Verb.PAUSE:
        return pause(rollout, turn.at_ms, turn.message)
    if turn.verb is Verb.RETRY:
        return retry(rollout, turn.at_ms)
    if turn.verb is Verb.START or turn.seen is None:
        return rollout
    return _MOVES[turn.verb](rollout, turn.seen, turn)


def replay(turns: Sequence[RecordedTurn]) -> tuple[Mismatch, ...]:
    """Decide every turn of one rollout again, each from the record before it.

    Returns:
        Turns that lead elsewhere than recorded; none is what a sound record gives.
    """
    found = []
    for before, recorded in pairwise(turns):
        if recorded.turn.verb is Verb.START:
            continue
        replayed = Rollout.from_json(plain(decide(before.after, recorded.turn)))
        if replayed != recorded.after:
            found.append(Mismatch(recorded.number, recorded.after, replayed))
    return tuple(found)


def n_decided(turns: Sequence[RecordedTurn]) -> int:
    """How many turns a replay decides: all but the first, and but where a record began anew."""
    return sum(recorded.turn.verb is not Verb.START for recorded in turns[1:])


def plain(rollout: Rollout) -> dict[str, Any]:
    """The record as it reads back from its store."""
    document: dict[str, Any] = json.loads(json.dumps(rollout.to_json()))
    return document


_MOVES: Mapping[Verb, Callable[[Rollout, Observation, Turn], Rollout]] = {
    Verb.ADVANCE: lambda rollout, seen, turn: advance(rollout, seen, turn.judgement)[0],
    Verb.RESUME: lambda rollout, seen, turn: resume(rollout, seen, turn.message)[0],
    Verb.SKIP: lambda rollout, seen, turn: skip(rollout, seen, turn.message)[0],
    Verb.PROMOTE: lambda rollout, seen, turn: promote(rollout, seen, turn.reason, turn.message)[0],
    Verb.ABORT: lambda rollout, seen, turn: abort(rollout, seen, turn.reason, turn.message)[0],
}
