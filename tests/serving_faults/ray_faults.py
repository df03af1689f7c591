"""Faults of Ray itself: a node lost, the GCS killed and started again."""

from __future__ import annotations

import os
import subprocess
import time

import psutil

from tests.serving_faults.fault import Fault, Run
from tests.serving_faults.fault_load import await_that
from tests.serving_faults.fault_place import named
from tests.serving_faults.fault_services import NODES

GCS_AWAY_S = 8.0
_STAGES = {"Scorer": 2, "Ordering": 2, "Shard0": 2, "Shard1": 2}


def lose_node(run: Run) -> None:
    """SIGKILL of everything on a node that holds stages and neither gateway nor controller."""
    nodes = {raylet: workers_of(raylet) for raylet in named("raylet/raylet")}
    spare = [raylet for raylet, titles in nodes.items() if is_spare(titles)]
    run.found("nodes with stages alone", f"{len(spare)} of {len(nodes)}", len(spare) > 0)
    lost = spare[0]
    n_stages = sum("ServeReplica" in title for title in nodes[lost])
    run.load.await_answers(30)
    killed_s = time.monotonic()
    for process in (lost, *lost.children(recursive=True)):
        process.kill()
    run.n_done += 1
    run.found("stage replicas on it", f"{n_stages}", n_stages > 0)
    for deployment, n in _STAGES.items():
        run.place.await_linked(deployment, n, 120)
    run.healed(run.load.await_whole() - killed_s)


def workers_of(raylet: psutil.Process) -> list[str]:
    """What the processes of a node call themselves."""
    return [" ".join(process.cmdline()) for process in raylet.children(recursive=True)]


def is_spare(titles: list[str]) -> bool:
    """Whether a node holds stages and nothing that there is only one of."""
    text = "\n".join(titles)
    single = ("Controller", "Gateway", "HAProxy", "Proxy")
    return "ServeReplica" in text and not any(title in text for title in single)


def kill_gcs(run: Run) -> None:
    """The GCS is killed, started anew, and a replica that dies afterwards is replaced."""
    (gcs,) = named("gcs_server")
    command, environment, folder = gcs.cmdline(), gcs.environ(), gcs.cwd()
    run.place.is_beyond_help = True
    killed_s = time.monotonic()
    gcs.kill()
    run.n_done += 1
    await_that(lambda: time.monotonic() - killed_s > GCS_AWAY_S, "its time")
    n_away = len(run.load.since(killed_s))
    run.found("answers without a GCS", f"{n_away}", n_away > 0)
    with (run.place.settings.data_dir / "gcs.log").open("ab") as log:
        child = subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log
        )
    try:
        started_s = time.monotonic()
        before = run.place.linked("Scorer")
        before[0].kill()
        await_that(
            lambda: bool({*run.place.linked("Scorer")} - {*before}), "a new scorer after it", 90
        )
        run.healed(time.monotonic() - started_s)
        run.load.await_answers(50)
    finally:
        child.kill()
        child.wait()
    run.found("degraded answers", f"{run.load.degraded.total()}", not run.load.degraded)


RAY_FAULTS = (
    Fault(
        "node-lost",
        "SIGKILL of one of three nodes with all its stages",
        lose_node,
        NODES,
    ),
    Fault(
        "gcs-killed",
        f"SIGKILL of Ray's GCS, back after {GCS_AWAY_S:.0f} s; then of a scorer",
        kill_gcs,
        NODES,
    ),
)
