"""Gathers what `cluster status` shows, and judges it. Asks no Ray; every part may be away."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.data_facts import data_problems, disk_facts, log_facts, worker_facts
from cluster.local.run_files import RunFiles, is_locked, read_document, read_state
from cluster.local.start_watch import last_line
from cluster.schedule_facts import schedule_facts, schedule_problems
from recsys.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from recsys.settings import Settings

STALE_STATUS_MS = 15_000
"""Serve's status is written every 2 s; older than this, nobody writes it."""


@dataclass(frozen=True, slots=True)
class StatusFacts:
    """What was found; an empty part could not be read, with the reason in `unreadable`."""

    is_running: bool
    run: Mapping[str, Any]
    serve: Mapping[str, Any]
    """Serve's own status document, with its age in `age_ms`."""
    control: Mapping[str, Any]
    """Plan, aliases, required bundles, the unfinished rollout, who drives rollouts and the living
    replicas."""
    log: Mapping[str, Any]
    """The event log's ends, and how far the feature store is behind them."""
    disk: Mapping[str, Any]
    """What waits in the spool, and damaged files that were set aside."""
    workers: Mapping[str, Mapping[str, Any]]
    """By worker: its living replicas, how far they are, and what they missed."""
    ready: Mapping[str, Any]
    """Status and body of /readyz; status 0 if nobody answered."""
    schedule: Mapping[str, Any] = field(default_factory=dict)
    """What the scheduler of trainings did and waits for; empty where there is none."""
    unreadable: tuple[str, ...] = field(default=())


def gather(settings: Settings, clock: Callable[[], int]) -> StatusFacts:
    """Read everything once.

    Args:
        clock: Unix time in milliseconds, asked with each part: on a busy machine one that was read
            before the others were would call living replicas gone.
    """
    files = RunFiles(settings.run_dir)
    unreadable: list[str] = []

    def part(read: Any) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = read()
        except (StoreError, ConfigError) as error:
            unreadable.append(str(error))
            return {}
        return found

    state = read_state(files.state)
    return StatusFacts(
        is_running=is_locked(files.lock),
        run=asdict(state) if state is not None else {},
        serve=_serve_status(files, clock()),
        control=part(lambda: _control(settings, clock)),
        log=part(lambda: log_facts(settings, clock())),
        disk=disk_facts(settings),
        workers=part(lambda: worker_facts(settings, clock())),
        ready=_readiness(settings),
        schedule=part(lambda: schedule_facts(settings)),
        unreadable=tuple(unreadable),
    )


def _serve_status(files: RunFiles, now_ms: int) -> dict[str, Any]:
    document = read_document(files.serve_status)
    return {} if document is None else document | {"age_ms": now_ms - document["updated_ms"]}


def _control(settings: Settings, clock: Callable[[], int]) -> dict[str, Any]:
    from cluster.rollouts.driving.controller_lease import ControllerLease
    from cluster.rollouts.driving.living_rows import seen_living
    from cluster.rollouts.storing.control_writer import ControlWriter
    from recsys.stores.control.control import ControlReader

    reader = ControlReader(settings.control_url)
    view = reader.view()
    unfinished = ControlWriter(settings.control_url).open_rollout()
    lease = ControllerLease(settings.control_url).read()
    alive = seen_living(reader.readiness, clock)
    rows = sorted(alive, key=lambda row: (row.stage, row.replica_id))
    now_ms = clock()
    return {
        "plan": None if view.plan is None else view.plan.to_json(),
        "aliases": dict(view.aliases),
        "required": list(view.required),
        "rollout": None if unfinished is None else unfinished.rollout.to_json(),
        "experiments": [
            {"experiment_id": one.experiment_id, "layer": str(one.layer), "share": one.share}
            for one in view.experiments.plans
        ],
        "controller": None
        if lease is None
        else asdict(lease)
        | {"age_ms": now_ms - lease.renewed_ms, "is_held": lease.is_held(now_ms)},
        "replicas": [asdict(row) | {"age_ms": now_ms - row.heartbeat_ms} for row in rows],
    }


def _readiness(settings: Settings) -> dict[str, Any]:
    from cluster.endpoint import ask

    try:
        answer = ask(settings.serve, "GET", "/readyz", timeout_s=2.0)
    except OSError as error:
        return {"status": 0, "detail": str(error)}
    return answer.document | {"status": answer.status}


def problems_of(facts: StatusFacts) -> list[str]:
    """What keeps the cluster from being healthy, one sentence each; empty if it is healthy."""
    if not facts.is_running:
        last_error = facts.run.get("error")
        why = f" (it ended with: {last_error})" if last_error else ""
        return [f"nothing is running{why}; run 'cluster up --wait'"]
    problems = list(facts.unreadable)
    if facts.run.get("phase") != "serving":
        problems.append(f"the cluster is {facts.run.get('phase')}: {facts.run.get('step')}")
    problems += _serve_problems(facts.serve)
    if facts.ready.get("status") != 200:
        detail = facts.ready.get("detail", "no answer")
        problems.append(f"/readyz answers {facts.ready.get('status')}, expected 200: {detail}")
    problems += [
        f"{row['stage']} replica {row['replica_id']} failed on bundle {row['bundle_id']}: "
        f"{row['reason']}"
        for row in facts.control.get("replicas", ())
        if row["state"] == "failed"
    ]
    problems += _controller_problems(facts.control)
    problems += schedule_problems(facts.schedule)
    return problems + data_problems(facts.log, facts.disk, facts.workers)


def _controller_problems(control: Mapping[str, Any]) -> list[str]:
    """A rollout with steps goes nowhere without a controller; anything else does."""
    rollout, lease = control.get("rollout"), control.get("controller")
    if not rollout or not rollout["steps"] or (lease and lease["is_held"]):
        return []
    last = f"the last was heard {lease['age_ms'] / 1000:.0f} s ago" if lease else "there was none"
    return [
        f"no controller drives rollout {rollout['rollout_id']} ({last}), expected one within "
        "seconds; see application control, and end the rollout with 'cluster canary abort'"
    ]


def _serve_problems(serve: Mapping[str, Any]) -> list[str]:
    if not serve:
        return ["ray serve has not reported yet"]
    if serve["age_ms"] > STALE_STATUS_MS:
        return [f"ray serve last reported {serve['age_ms'] / 1000:.0f} s ago; see supervisor.log"]
    problems = []
    for name, application in serve["applications"].items():
        if application["status"] == "RUNNING":
            continue
        said = [application["message"]]
        said += [found["message"] for found in application["deployments"].values()]
        detail = next((last_line(text) for text in said if text.strip()), "no reason given")
        problems.append(f"application {name} is {application['status']}: {detail}")
    return problems


def wall_clock_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000
