"""Rollouts, their turns and history as rows of the control store, and back. Touches no store."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from cluster.rollouts.deciding.rollout_record import Rollout
from cluster.rollouts.deciding.rollout_turn import RecordedTurn, Turn


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


def rollout_columns(stored: StoredRollout) -> dict[str, Any]:
    """What changes of a rollout's row with each move."""
    return {
        "revision": stored.revision,
        "is_closed": stored.rollout.is_closed,
        "driver": stored.driver,
        "driven_ms": stored.driven_ms,
        "document": json.dumps(stored.rollout.to_json()),
    }


def turn_columns(stored: StoredRollout, turn: Turn, now_ms: int) -> dict[str, Any]:
    """The row of a move that led to a record."""
    return {
        "rollout_id": stored.rollout.rollout_id,
        "number": stored.revision,
        "at_ms": now_ms,
        "who": stored.driver,
        "turn": json.dumps(turn.to_json()),
        "after": json.dumps(stored.rollout.to_json()),
    }


def read_turn(row: Any) -> RecordedTurn:
    """The move of a row."""
    return RecordedTurn(
        str(row["rollout_id"]),
        int(row["number"]),
        str(row["who"]),
        Turn.from_json(json.loads(row["turn"])),
        Rollout.from_json(json.loads(row["after"])),
    )


def read_rollout(row: Any) -> StoredRollout:
    """The rollout of a row."""
    rollout = Rollout.from_json(json.loads(row["document"]))
    return StoredRollout(rollout, int(row["revision"]), str(row["driver"]), int(row["driven_ms"]))


def entry_of(rollout: Rollout, who: str, now_ms: int) -> HistoryEntry:
    """The line of history of a record that was just made."""
    what = f"{rollout.rollout_id}: {rollout.stable_id} -> {rollout.bundle_id}"
    return HistoryEntry(now_ms, who, str(rollout.phase), what, rollout.message)
