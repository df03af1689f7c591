"""A small service of a run's own to do harm to: its settings, its processes, its end."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings
from tests.graph_server import serving
from tests.serving_faults.fault_load import await_that
from tests.serving_faults.fault_services import Service

_END_S = 10.0


@dataclass
class Place:
    """A running service."""

    settings: Settings
    client: httpx.Client
    bundle_ids: tuple[str, ...]
    is_beyond_help: bool = False
    """Whether Ray is to be ended by force, since it cannot end itself any more."""
    frozen: list[psutil.Process] = field(default_factory=list)

    @property
    def base_url(self) -> str:
        """Where it is asked."""
        return str(self.client.base_url)

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """The processes of a deployment's replicas."""
        return named(f"ServeReplica:recommend:{deployment}")

    def gateway(self) -> psutil.Process:
        """The process of the only gateway."""
        (process,) = self.replicas("Gateway")
        return process

    def linked(self, deployment: str) -> list[psutil.Process]:
        """Those of them that the gateway is connected to."""
        asked = {c.raddr.port for c in connections(self.gateway()) if c.raddr}
        return [
            process
            for process in self.replicas(deployment)
            if any(c.laddr.port in asked for c in connections(process) if is_link_door(c))
        ]

    def await_linked(self, deployment: str, n: int, timeout_s: float = 60.0) -> float:
        """Return once so many replicas can be asked; the seconds that took."""
        return await_that(
            lambda: len(self.linked(deployment)) == n, f"{n} of {deployment} linked", timeout_s
        )

    def freeze(self, process: psutil.Process) -> None:
        """Let it stand still; it closes nothing."""
        process.suspend()
        self.frozen.append(process)

    def thaw(self) -> None:
        """Whatever stands still goes on."""
        for process in self.frozen:
            if process.is_running():
                process.resume()
        self.frozen.clear()

    def is_held(self, bundle_id: str, n_replicas: int) -> bool:
        """Whether so many replicas say that they hold a bundle."""
        rows = ControlReader(self.settings.control_url).readiness()
        held = {r.replica_id for r in rows if (r.bundle_id, r.state) == (bundle_id, "ready")}
        return len(held) >= n_replicas


def named(title: str) -> list[psutil.Process]:
    """Processes below this one with a title; no other Ray is ever touched."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if title in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def is_link_door(connection: Any) -> bool:
    """Whether a replica takes links there; Ray's own doors are open on every address."""
    is_open = connection.status == psutil.CONN_LISTEN
    return is_open and connection.laddr.ip not in ("0.0.0.0", "::")


def connections(process: psutil.Process) -> list[Any]:
    """Its TCP connections; none where it has gone."""
    try:
        return list(process.net_connections("tcp"))
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return []


@contextmanager
def a_place(directory: Path, service: Service, changes: Mapping[str, Any]) -> Generator[Place]:
    """A service with a bundle in force; nothing of it is left in the end.

    Args:
        changes: whole branches of the settings.
    """
    settings = small_settings(directory, **service.serve).model_copy(update=dict(changes))
    manifests = [
        publish_small(settings, directory / f"new{seed}", seed=seed)
        for seed in range(1, 1 + service.n_bundles)
    ]
    ids = tuple(manifest.bundle_id for manifest in manifests)
    put_in_force(settings, all_to(ids[0]))
    started: list[psutil.Process] = []
    before = {process.pid for process in psutil.Process().children(recursive=True)}
    variables = service.variables(directory)
    try:
        with serving(
            settings, haproxy=True, variables=variables, n_nodes=service.n_nodes
        ) as client:
            place = Place(settings, client, ids)
            try:
                yield place
            finally:
                place.thaw()
                mine = psutil.Process().children(recursive=True)
                started = [process for process in mine if process.pid not in before]
                if place.is_beyond_help:
                    end_all(started)
    finally:
        end_all(started)


def end_all(processes: list[psutil.Process]) -> None:
    """Kill what still runs of these; a pid that is somebody else's by now is left alone."""
    for process in processes:
        if process.is_running():
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
    psutil.wait_procs(processes, timeout=_END_S)
