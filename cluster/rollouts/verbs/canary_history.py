"""`cluster canary history`: what was changed, and whether it would be decided so again.

Reads the control store alone, changes nothing, and works while nothing runs.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from cluster.console import Console
from cluster.rollouts.verbs.canary_reading import latest
from recsys.errors import ConfigError, RecsysError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cluster.rollouts.deciding.rollout_turn import Mismatch, RecordedTurn

_NEWEST = "newest"


@click.command(
    epilog="""\b
    Examples:
      cluster canary history
      cluster canary history -n 50
      cluster canary history --replay
      cluster canary history --replay r20261122-091500-041

    --replay decides every recorded turn of a rollout again, on what was then observed and judged,
    and exits 1 if a decision differs from the recorded one.
    """
)
@click.option("-n", "n_lines", type=click.IntRange(min=1), default=20, help="Newest lines shown.")
@click.option(
    "--replay",
    "replayed",
    is_flag=False,
    flag_value=_NEWEST,
    metavar="[ROLLOUT]",
    help="Decide a rollout's turns again. Default: the newest rollout's.",
)
@click.pass_obj
def history(console: Console, n_lines: int, replayed: str | None) -> None:
    """List what was changed, when, by whom and why; the newest last."""
    from cluster.rollouts.storing.control_writer import ControlWriter

    writer = ControlWriter(console.settings.control_url)
    if replayed is not None:
        stored = latest(console, None if replayed == _NEWEST else replayed)
        if stored is None:
            raise ConfigError(
                f"there is no rollout {'yet' if replayed == _NEWEST else replayed}, expected one "
                "to replay; see 'cluster canary history'"
            )
        _replay(console, stored.rollout.rollout_id, writer.turns(stored.rollout.rollout_id))
        return
    entries = writer.history()[-n_lines:]
    lines = [
        f"{_time_text(entry.at_ms)}  {entry.verb:<10} {entry.what}  {entry.why}  ({entry.who})"
        for entry in entries
    ]
    document = {"history": [asdict(entry) for entry in entries]}
    console.emit(document, "\n".join(lines) or "nothing was changed yet")


def _replay(console: Console, rollout_id: str, turns: Sequence[RecordedTurn]) -> None:
    from cluster.rollouts.deciding.rollout_turn import n_decided, replay

    found = replay(turns)
    n_turns = n_decided(turns)
    document = {
        "rollout_id": rollout_id,
        "n_turns": len(turns),
        "n_replayed": n_turns,
        "is_same": not found if n_turns else None,
        "mismatches": [
            {
                "number": one.number,
                "recorded": one.recorded.to_json(),
                "replayed": one.replayed.to_json(),
            }
            for one in found
        ],
    }
    if not n_turns:
        console.emit(document, f"rollout {rollout_id} has no turn yet that was decided")
        return
    lines = [
        f"rollout {rollout_id}: {n_turns} of {len(turns)} recorded turns decided again, "
        f"{len(found) or 'none'} otherwise"
    ]
    console.emit(document, "\n".join([*lines, *map(_mismatch_line, found)]))
    if found:
        raise RecsysError(
            f"{len(found)} of {n_turns} turns of rollout {rollout_id} are decided otherwise than "
            f"recorded, the first is turn {found[0].number}, expected none; another release made "
            "them, or the record was changed"
        )


def _mismatch_line(one: Mismatch) -> str:
    return (
        f"turn {one.number}: recorded {one.recorded.phase} at step {one.recorded.step + 1} "
        f"({one.recorded.message}), now {one.replayed.phase} at step {one.replayed.step + 1} "
        f"({one.replayed.message})"
    )


def _time_text(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d %H:%M:%S}Z"
