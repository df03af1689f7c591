"""`cluster up` and `down` with real Ray, HAProxy and signals, and two applications of one line.

Everything runs on ports of its own, through the command a user types.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster.endpoint import ask
from cluster.local.environment import temp_dir_of
from cluster.local.owned_processes import (
    ProcessIdentity,
    is_alive,
    owned_now,
    read_process,
    read_record,
    send_signal,
)
from cluster.local.ports import needed_ports
from cluster.local.run_files import RunFiles, hold_lock
from recsys.settings import Settings
from tests.lane_ports import free_ports

pytestmark = pytest.mark.integration

HERE = Path(__file__).parent
APPLICATIONS = {
    "applications": [
        {
            "name": "recommend",
            "route_prefix": "/",
            "import_path": "plain_page_app:build",
            "args": {"text": "hello"},
        },
        {
            "name": "workers",
            "route_prefix": None,
            "import_path": "plain_page_app:build_follower",
            "args": {},
        },
    ]
}


@dataclass(frozen=True)
class Place:
    """A data directory with its own settings, and the command run there."""

    directory: Path
    settings: Settings

    def command(self, *arguments: str) -> list[str]:
        """The command line of a verb here."""
        settings_file = str(self.directory / "here.toml")
        return [sys.executable, "-m", "cluster", "--config", settings_file, *arguments]

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a verb to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=os.environ | {"PYTHONPATH": str(HERE)},
            capture_output=True,
            text=True,
            timeout=280,
            check=False,
        )

    def up(self) -> dict[str, Any]:
        """Start the two applications and wait until they answer."""
        done = self.run("--json", "up", "--wait", "--serve-config", str(self.directory / "a.json"))
        assert done.returncode == 0, done.stderr
        document: dict[str, Any] = json.loads(done.stdout)
        return document

    @property
    def files(self) -> RunFiles:
        """The files of the run."""
        return RunFiles(self.settings.run_dir)

    def owned(self) -> tuple[ProcessIdentity, ...]:
        """Every living process of the recorded run."""
        record = read_record(self.files.record)
        return () if record is None else owned_now(record)

    def ports_in_use(self) -> set[int]:
        """Those of our ports that somebody listens on."""
        listening = {
            connection.laddr.port
            for connection in psutil.net_connections(kind="tcp")
            if connection.status == psutil.CONN_LISTEN
        }
        return listening & {entry.port for entry in needed_ports(self.settings)}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A place with six free ports; whatever runs there is stopped at the end."""
    ports = free_ports(len(needed_ports(Settings())))
    names = ("ray_port", "haproxy_stats_port", "haproxy_metrics_port")
    names += ("fallback_port", "metrics_port")
    cluster = dict(zip(names, ports[1:], strict=True)) | {"start_timeout_s": 240}
    settings = Settings.model_validate(
        {
            "data_dir": tmp_path / "var",
            "serve": {"port": ports[0]},
            "cluster": cluster,
        }
    )
    lines = [f'data_dir = "{settings.data_dir}"', "[serve]", f"port = {ports[0]}", "[cluster]"]
    lines += [f"{name} = {value}" for name, value in cluster.items()]
    (tmp_path / "here.toml").write_text("\n".join(lines))
    (tmp_path / "a.json").write_text(json.dumps(APPLICATIONS))
    here = Place(tmp_path, settings)
    yield here
    here.run("down")


def wait_until(is_true: Callable[[], bool], timeout_s: float = 30.0) -> bool:
    """Look every 50 ms until it is true or the time is over."""
    deadline = time.monotonic() + timeout_s
    while not is_true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def identity_of(pid: int) -> ProcessIdentity:
    """The living process of that pid."""
    row = read_process(pid)
    assert row is not None
    return row.identity


def nothing_is_left(place: Place, run: tuple[ProcessIdentity, ...]) -> bool:
    """No process of the run, no port, no temporary directory."""
    return (
        not any(is_alive(process) for process in run)
        and not place.ports_in_use()
        and not temp_dir_of(place.settings).exists()
    )


def test_up_answers_on_loopback_only_and_down_leaves_nothing(place: Place) -> None:
    """Start, a second start, status and stop, as a user does it."""
    started = place.up()
    assert started["ready"] is True
    answer = ask(place.settings.serve, "GET", "/any")
    assert answer.document["text"] == "hello"
    assert answer.document["nice"] == os.getpriority(os.PRIO_PROCESS, 0)
    supervisor = identity_of(started["supervisor_pid"])
    assert wait_until(lambda: answer.document["pid"] in {p.pid for p in place.owned()})
    run = place.owned()

    pids = {process.pid for process in run}
    needed = {entry.port for entry in needed_ports(place.settings)}
    hosts = {
        connection.laddr.port: connection.laddr.ip
        for connection in psutil.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN and connection.pid in pids
    }
    assert needed <= set(hosts)
    assert {hosts[port].removeprefix("::ffff:") for port in needed} == {"127.0.0.1"}

    again = json.loads(place.run("--json", "up", "--wait").stdout)
    assert again["supervisor_pid"] == supervisor.pid
    status = json.loads(place.run("--json", "status").stdout)
    assert {a["status"] for a in status["serve"]["applications"].values()} == {"RUNNING"}

    stopped = place.run("--json", "down")
    assert json.loads(stopped.stdout) == {"was_running": True, "orphans": []}
    assert nothing_is_left(place, (supervisor, *run))
    assert json.loads(place.run("--json", "down").stdout)["was_running"] is False


def test_after_kill_9_the_next_up_serves_and_after_the_death_of_ray_the_run_ends(
    place: Place,
) -> None:
    """Orphans are found and ended, their ports taken over; half a cluster is not kept."""
    first = place.up()
    answering = identity_of(ask(place.settings.serve, "GET", "/").document["pid"])
    assert wait_until(lambda: answering.pid in {process.pid for process in place.owned()})
    run = place.owned()
    assert send_signal(identity_of(first["supervisor_pid"]), signal.SIGKILL)
    # A killed process may hold its lock for some seconds more: here that is made sure.
    lock = hold_lock(place.files.lock, patience_s=30)
    assert lock is not None
    threading.Timer(2.0, os.close, [lock]).start()

    second = place.up()
    assert second["supervisor_pid"] != first["supervisor_pid"]
    assert not any(is_alive(process) for process in run)
    answer = ask(place.settings.serve, "GET", "/")
    assert answer.document["text"] == "hello"
    assert answer.document["pid"] != answering.pid

    supervisor = identity_of(second["supervisor_pid"])
    run = place.owned()
    raylets = [process for process in run if process.name == "raylet"]
    assert len(raylets) == 1
    send_signal(raylets[0], signal.SIGKILL)
    assert wait_until(lambda: not is_alive(supervisor))
    assert not any(is_alive(process) for process in run)
    # The kernel closes what a process listened at a moment after it is gone from the table.
    assert wait_until(lambda: place.ports_in_use() == set())
    status = place.run("status")
    assert status.returncode == 3
    assert "raylet" in status.stdout
    assert place.run("down").returncode == 0
    assert nothing_is_left(place, run)


def test_a_port_held_by_another_process_is_told_and_nothing_starts(place: Place) -> None:
    """The holder is not touched; the error names port, process and setting."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", place.settings.cluster.fallback_port))
        server.listen()
        done = place.run("up", "--wait", "--serve-config", str(place.directory / "a.json"))
        assert done.returncode == 3
        assert f"port {place.settings.cluster.fallback_port} is used by process" in done.stderr
        assert f"{os.getpid()}" in done.stderr
        assert "FLYWHEEL__CLUSTER__FALLBACK_PORT" in done.stderr
    assert place.owned() == ()


def test_a_foreground_run_ends_with_its_command(place: Place) -> None:
    """Ctrl-C on `up --foreground` stops everything and is no failure."""
    command = place.command(
        "up", "--wait", "--foreground", "--serve-config", str(place.directory / "a.json")
    )
    with subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(HERE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as foreground:
        assert foreground.stdout is not None
        assert "serving at" in foreground.stdout.readline()
        run = place.owned()
        assert run
        foreground.send_signal(signal.SIGINT)
        assert foreground.wait(timeout=60) == 0
    assert nothing_is_left(place, run)
