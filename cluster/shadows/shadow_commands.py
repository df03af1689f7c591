"""`cluster shadow`: start, look at and end shadow traffic. The work is `shadow_runner`'s."""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from cluster.console import Console
from cluster.shadows import shadow_reading
from cluster.who_and_when import now_ms, who
from recsys.errors import ConfigError, WaitTimeout

if TYPE_CHECKING:
    from cluster.shadows.shadow_reading import LiveAnswers
    from cluster.shadows.shadow_record import ShadowRecord
    from cluster.shadows.shadow_runner import ShadowRunner
    from recsys.stores.evidence.evidence_sums import ShadowSums

POLL_S = 0.5
WATCH_POLL_S = 1.0
_MAX_SHOWN = 20
_NONE = "there is no shadow yet; start one with 'cluster shadow start BUNDLE'"


@click.group(
    epilog="""\b
    Examples:
      cluster shadow start b20261122-091500-4e1c9a --share 0.1
      cluster shadow status
      cluster shadow stop
    """
)
def shadow() -> None:
    """Send copies of requests to a bundle that answers nobody."""


@shadow.command(
    epilog="""\b
    Examples:
      cluster shadow start b20261122-091500-4e1c9a
      cluster shadow start b20261122-091500-4e1c9a --share 0.5 --wait --timeout 120

    Returns once every replica holds the bundle and copies are made. Started again after its
    process was killed, it goes on where it was. Exits 2 if the bundle is stable already, 3 if
    nothing runs or a replica refuses it, 4 if its shadow has another share, 7 if not every replica
    held it in time.
    """
)
@click.argument("bundle_id", metavar="BUNDLE")
@click.option(
    "--share",
    type=click.FloatRange(0.0, 1.0, min_open=True),
    metavar="X",
    help="Of all requests, above 0 up to 1; default 0.2.",
)
@click.option("--wait", is_flag=True, help="Return when the first answers are counted.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.0),
    help="Seconds, then exit 7; default cluster.ready_timeout_s.",
)
@click.pass_obj
def start(
    console: Console, bundle_id: str, share: float | None, wait: bool, timeout_s: float | None
) -> None:
    """Load a bundle beside the others and copy a share of the requests to it."""
    limit_s = console.settings.cluster.ready_timeout_s if timeout_s is None else timeout_s
    with _runner(console) as runner:
        record = runner.start(bundle_id, share, limit_s)
        if wait:
            _wait_for_answers(console, record, limit_s)
    text = (
        f"shadow {record.shadow_id} of {record.bundle_id} gets copies of {record.share:.0%} of "
        "the requests"
    )
    console.emit({"shadow": record.to_json()}, text)
    console.note("look with 'cluster shadow status', end it with 'cluster shadow stop'")


@shadow.command(
    epilog="""\b
    Examples:
      cluster shadow status
      cluster shadow status --watch
      cluster shadow status s20261122-091500-041 --lift
      cluster --json shadow status | jq .shadows[0].answers

    Without a name it shows all open shadows, or else the newest. --lift reads the lake and exits 6
    where the log cannot tell.
    """
)
@click.argument("name", metavar="[SHADOW|BUNDLE]", required=False)
@click.option("--watch", is_flag=True, help="Again every second, until it is stopped.")
@click.option("--lift", is_flag=True, help="What its slates would have earned, from the log.")
@click.option("--kind", metavar="KIND", help="With --lift: the kind that counts.")
@click.option("--positions", type=click.IntRange(1), metavar="N", help="Likewise: the first N.")
@click.pass_context
def status(
    ctx: click.Context,
    /,
    name: str | None,
    watch: bool,
    lift: bool,
    kind: str | None,
    positions: int | None,
) -> None:
    """Say what the shadow would have answered: failures, rank difference, latency."""
    console: Console = ctx.obj
    if (kind is not None or positions is not None) and not lift:
        raise click.UsageError("--kind and --positions are of --lift, which was not given")
    if watch and (lift or console.as_json):
        raise click.UsageError("--watch shows a page, expected neither --lift nor --json with it")
    if watch:
        _watch(console, name)
        return
    records = _shown(console, name)
    if lift:
        ctx.exit(_emit_with_lift(console, records, lift_arguments(records, kind, positions)))
    _emit(console, records)


@shadow.command(
    epilog="""\b
    Examples:
      cluster shadow stop
      cluster shadow stop b20261122-091500-4e1c9a --message "seen enough"
    """
)
@click.argument("name", metavar="[SHADOW|BUNDLE]", required=False)
@click.option("--message", default="stopped by the operator", help="Why, for the history.")
@click.pass_obj
def stop(console: Console, name: str | None, message: str) -> None:
    """End a shadow; its bundle is unloaded unless something else needs it."""
    with _runner(console) as runner:
        record = runner.stop(name, message)
    text = f"shadow {record.shadow_id} of {record.bundle_id} is stopped: {record.why}"
    console.emit({"shadow": record.to_json()}, text)


def lift_arguments(
    records: Sequence[ShadowRecord], kind: str | None, positions: int | None
) -> list[str]:
    """The job's arguments for the lift of one shadow.

    Raises:
        ConfigError: there is none, or more than one.
    """
    if not records:
        raise ConfigError(f"--lift is of one shadow, and {_NONE}")
    if len(records) > 1:
        listed = ", ".join(record.shadow_id for record in records)
        raise ConfigError(
            f"--lift is of one shadow, expected 1 of {listed}; name one with "
            "'cluster shadow status SHADOW --lift'"
        )
    record = records[0]
    arguments = ["shadow-lift", record.shadow_id, "--since", str(record.started_ms)]
    arguments += ["--share", str(record.share)]
    arguments += ["--kind", kind] if kind is not None else []
    arguments += ["--positions", str(positions)] if positions is not None else []
    return arguments


def _emit(console: Console, records: Sequence[ShadowRecord]) -> None:
    from cluster.shadows.shadow_figures import shadow_document, shadow_text

    seen = [(record, *_figures(console, record)) for record in records]
    stable_id = shadow_reading.stable_id(console.settings)
    text = "\n\n".join(
        shadow_text(record, sums, live, is_stable=record.bundle_id == stable_id)
        for record, sums, live in seen
    )
    document = {"shadows": [shadow_document(*one) for one in seen]}
    console.emit(document, text or _NONE)


def _figures(console: Console, record: ShadowRecord) -> tuple[ShadowSums, LiveAnswers]:
    settings = console.settings
    live = shadow_reading.read_live(settings, record, now_ms())
    return shadow_reading.read_sums(settings, record), live


def _emit_with_lift(
    console: Console, records: Sequence[ShadowRecord], arguments: Sequence[str]
) -> int:
    """The status, and what the trainer's process finds in the lake; its exit code."""
    from cluster.learning_commands import run_learning
    from cluster.shadows.shadow_figures import shadow_document

    if not console.as_json:
        _emit(console, records)
        return run_learning(console, arguments)[0]
    exit_code, found = run_learning(console, arguments, reads_result=True)
    document = shadow_document(records[0], *_figures(console, records[0]))
    console.emit({"shadows": [document | {"lift": found or None}]}, "")
    return exit_code


def _shown(console: Console, name: str | None) -> list[ShadowRecord]:
    """The shadows of a name, or all open ones, or else the newest."""
    from cluster.shadows.shadow_writer import ShadowWriter

    writer = ShadowWriter(console.settings.control_url)
    try:
        stored = writer.all()
    finally:
        writer.give_back()
    records = [one.record for one in stored]
    if name is not None:
        found = [record for record in records if name in (record.shadow_id, record.bundle_id)]
        if not found:
            raise ConfigError(
                f"there is no shadow '{name}', expected the name of one or of its bundle; "
                "see 'cluster shadow status'"
            )
        by_id = [record for record in found if record.shadow_id == name]
        return by_id or found[-1:]
    return [record for record in records if not record.is_closed][:_MAX_SHOWN] or records[-1:]


def _watch(console: Console, name: str | None) -> None:
    """Show the status again until the shadow is stopped."""
    last = ""
    while True:
        records = _shown(console, name)
        said: list[str] = []
        _emit(Console(console.settings, write=said.append), records)
        page = "\n".join(said)
        if sys.stdout.isatty():
            click.clear()
            console.emit({}, page)
        elif page != last:
            console.emit({}, page)
        last = page
        if all(record.is_closed for record in records):
            return
        time.sleep(WATCH_POLL_S)


def _wait_for_answers(console: Console, record: ShadowRecord, limit_s: float) -> None:
    give_up_s = time.monotonic() + limit_s
    with console.progress("shadow") as show:
        while not shadow_reading.read_sums(console.settings, record).n:
            show("waits for the first answers", None)
            if time.monotonic() >= give_up_s:
                raise WaitTimeout(
                    f"shadow {record.shadow_id} runs, and none of its answers was counted in "
                    f"{limit_s:g} s, expected requests to copy; send some, and see application "
                    "'workers' in 'cluster status'"
                )
            time.sleep(POLL_S)


@contextmanager
def _runner(console: Console) -> Generator[ShadowRunner]:
    from cluster.rollouts.driving.rollout_actions import Operator
    from cluster.rollouts.driving.rollout_request import RolloutRequest
    from cluster.rollouts.storing.control_writer import ControlWriter
    from cluster.shadows.shadow_runner import ShadowRunner
    from cluster.shadows.shadow_writer import ShadowWriter
    from recsys.bundles.registry import open_registry
    from recsys.stores.control.control import ControlReader

    settings = console.settings
    reader, writer = ControlReader(settings.control_url), ShadowWriter(settings.control_url)
    request = RolloutRequest(
        settings, open_registry(settings), ControlWriter(settings.control_url), reader
    )
    with console.progress("shadow") as show:
        operator = Operator(who(), now_ms, time.sleep, lambda line: show(line, None))
        try:
            yield ShadowRunner(settings, request, writer, reader, operator)
        finally:
            writer.give_back()
