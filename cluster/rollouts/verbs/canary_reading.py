"""`cluster canary status` and `explain`: read the control store alone, change nothing.

They work while no controller, no replica and no evidence store does.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text
from cluster.who_and_when import now_ms
from recsys.errors import ConfigError, FleetError, WaitTimeout

if TYPE_CHECKING:
    from cluster.rollouts.deciding.rollout_record import Rollout
    from cluster.rollouts.storing.control_writer import StoredRollout

WAIT_POLL_S = 0.25
WATCH_POLL_S = 1.0
_LEFT = "nobody drives it: go on with 'cluster canary retry' or end it with 'cluster canary abort'"


@click.command(
    epilog="""\b
    Examples:
      cluster canary status
      cluster canary status --watch
      cluster canary status --wait --timeout 120

    With --wait, and with --watch once it has ended: 0 promoted, 3 nobody drives it or the fleet
    did not follow, 4 aborted by an operator, 5 aborted by the evidence or because a replica
    refused the bundle, 7 timed out.
    """
)
@click.option("--wait", is_flag=True, help="Return when the rollout has ended.")
@click.option("--watch", is_flag=True, help="Show it live until it has ended.")
@click.option(
    "--timeout", "timeout_s", type=click.FloatRange(min=0.0), help="Seconds, then exit 7."
)
@click.pass_obj
def status(console: Console, wait: bool, watch: bool, timeout_s: float | None) -> None:
    """Say where the unfinished rollout stands, or how the last one ended."""
    from cluster.rollouts.driving.rollout_runner import raise_for_outcome

    is_live = watch and is_on_terminal(console)
    if is_live:
        stored = watch_live(console, timeout_s)
    elif wait or watch:
        stored = follow(console, timeout_s)
    else:
        stored = latest(console)
    if not is_live:
        emit_status(console, stored)
    if (wait or watch) and stored is not None:
        raise_for_outcome(stored.rollout)


@click.command(
    epilog="""\b
    Examples:
      cluster canary explain
      cluster canary explain r20261122-091500-041
      cluster --json canary explain | jq .deciding
    """
)
@click.argument("rollout_id", metavar="[ROLLOUT]", required=False)
@click.pass_obj
def explain(console: Console, rollout_id: str | None) -> None:
    """Say why a rollout stands where it stands, and tell how it came there."""
    from cluster.rollouts.storing.control_writer import ControlWriter
    from cluster.rollouts.verbs.canary_explain import (
        chapter_line,
        chapters,
        deciding_comparison,
        why_lines,
    )

    stored = latest(console, rollout_id)
    if stored is None:
        raise ConfigError(
            f"there is no rollout {rollout_id or 'yet'}, expected one to explain; "
            "see 'cluster canary history'"
        )
    rollout = stored.rollout
    turns = ControlWriter(console.settings.control_url).turns(rollout.rollout_id)
    told = chapters(turns)
    lines = why_lines(rollout, now_ms())
    story = [chapter_line(chapter, rollout.started_ms) for chapter in told]
    document = {
        "rollout": rollout.to_json(),
        "why": lines,
        "deciding": deciding_comparison(rollout),
        "judgement": rollout.judgement,
        "story": [asdict(chapter) for chapter in told],
        "n_turns": len(turns),
    }
    console.emit(document, "\n".join([*lines, "", f"{len(turns)} recorded turns:", *story]))


def latest(console: Console, rollout_id: str | None = None) -> StoredRollout | None:
    """The unfinished rollout, or else the newest; or the one of this id."""
    from cluster.rollouts.storing.control_writer import ControlWriter

    rollouts = ControlWriter(console.settings.control_url).rollouts()
    if rollout_id is not None:
        found = [stored for stored in rollouts if stored.rollout.rollout_id == rollout_id]
        return found[-1] if found else None
    unfinished = [stored for stored in rollouts if not stored.rollout.is_closed]
    newest_last = unfinished or rollouts
    return newest_last[-1] if newest_last else None


def follow(
    console: Console, timeout_s: float | None, rollout_id: str | None = None
) -> StoredRollout | None:
    """Follow a rollout until it is closed, in lines on stderr.

    Raises:
        WaitTimeout: it was not in time.
        FleetError: nobody drives it.
    """
    from cluster.rollouts.verbs.canary_view import rollout_line

    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    with console.progress("canary") as show:
        while (stored := latest(console, rollout_id)) is not None and not stored.rollout.is_closed:
            rollout_id = stored.rollout.rollout_id
            show(rollout_line(stored.rollout, now_ms()), None)
            _check_waiting(console, stored, deadline_s, timeout_s)
            time.sleep(WAIT_POLL_S)
    return stored


def emit_status(console: Console, stored: StoredRollout | None, advice: str = "") -> None:
    """Write the status of a rollout and of the fleet that the control store tells of."""
    from cluster.rollouts.driving.living_rows import seen_living
    from cluster.rollouts.verbs.canary_view import rollout_document, rollout_page
    from recsys.stores.control.control import ControlReader

    reader = ControlReader(console.settings.control_url)
    view = reader.view()
    stable = view.aliases.get("stable")
    is_left = stored is not None and _is_abandoned(console, stored)
    document: dict[str, Any] = {
        "stable": stable,
        "plan": None if view.plan is None else view.plan.to_json(),
        "required": list(view.required),
        "rollout": None if stored is None else stored.rollout.to_json(),
        "view": None if stored is None else rollout_document(stored.rollout, now_ms()),
        "is_abandoned": is_left,
        "driver": None if stored is None else stored.driver,
        "replicas": [asdict(row) for row in seen_living(reader.readiness, now_ms)],
    }
    lines = [f"stable is {stable or 'not set; run cluster up'}"]
    if stored is not None:
        page = "" if console.as_json else as_text(rollout_page(stored.rollout, now_ms()))
        lines.append(page)
    lines += [line for line in (_LEFT if is_left else "", advice) if line]
    console.emit(document, "\n".join(lines))


def outcome_text(rollout: Rollout) -> str:
    """Where a rollout stands, as a sentence."""
    return (
        f"rollout {rollout.rollout_id} of {rollout.bundle_id} over {rollout.stable_id} is "
        f"{rollout.phase}: {rollout.message}"
    )


def is_on_terminal(console: Console) -> bool:
    """Whether somebody looks at a page that can be redrawn."""
    return not console.as_json and sys.stdout.isatty()


def watch_live(
    console: Console, timeout_s: float | None, rollout_id: str | None = None
) -> StoredRollout | None:
    """Redraw the page until a rollout is closed; the last page stays.

    Raises:
        WaitTimeout: it was not in time.
        FleetError: nobody drives it.
    """
    from rich.live import Live
    from rich.text import Text

    from cluster.rollouts.verbs.canary_view import rollout_page

    deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
    stored = latest(console, rollout_id)
    if stored is None:
        console.emit({}, "there is no rollout yet; start one with 'cluster canary start BUNDLE'")
        return None
    with Live(Text(""), auto_refresh=False) as live:
        while stored is not None:
            live.update(rollout_page(stored.rollout, now_ms()), refresh=True)
            if stored.rollout.is_closed:
                break
            _check_waiting(console, stored, deadline_s, timeout_s)
            time.sleep(WATCH_POLL_S)
            stored = latest(console, stored.rollout.rollout_id)
    return stored


def _check_waiting(
    console: Console, stored: StoredRollout, deadline_s: float | None, timeout_s: float | None
) -> None:
    rollout = stored.rollout
    if _is_abandoned(console, stored):
        raise FleetError(f"rollout {rollout.rollout_id} is {rollout.phase}; {_LEFT}")
    if deadline_s is not None and time.monotonic() >= deadline_s:
        raise WaitTimeout(
            f"rollout {rollout.rollout_id} is still {rollout.phase} after {timeout_s} s "
            f"({rollout.message}), expected it to end; wait longer or abort it with "
            "'cluster canary abort'"
        )


def _is_abandoned(console: Console, stored: StoredRollout) -> bool:
    """Whether an unfinished rollout is moved by nobody: no operator, and no living controller."""
    from cluster.rollouts.driving.abandonment import is_abandoned
    from cluster.rollouts.driving.controller_lease import ControllerLease

    lease = ControllerLease(console.settings.control_url).read()
    return is_abandoned(stored, lease, now_ms())
