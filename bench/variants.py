"""How each measured variant is started, awaited and stopped. Knows nothing of load or figures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from recsys.errors import FleetError

START_TIMEOUT_S = 180
PROBE_PATH = "/v1/recommend?user_id=1&k=20"
PEER_PACKAGES = Path("var/bench-peer")
"""Where `make bench-peer` puts what only a baseline imports, apart from the service's packages."""
_CPU_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "RAY_USAGE_STATS_ENABLED": "0"}


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def graph(
    data_dir: Path, port: int, placement: str, added: Mapping[str, str] | None = None
) -> Generator[str]:
    """The request graph through `cluster up`, in its own data directory.

    Args:
        added: to the environment of all its processes.
    """
    environment = {
        **os.environ,
        **_CPU_ENVIRONMENT,
        **(added or {}),
        "FLYWHEEL__DATA_DIR": str(data_dir),
        "FLYWHEEL__SERVE__PORT": str(port),
        "FLYWHEEL__SERVE__PLACEMENT": placement,
        # Rivals answer in full, so do we.
        "FLYWHEEL__SERVE__LADDER_WAIT_MS": "0",
    }
    cluster = [sys.executable, "-m", "cluster"]
    try:
        subprocess.run([*cluster, "up", "--wait"], env=environment, check=True)
        yield f"http://127.0.0.1:{port}"
    finally:
        subprocess.run([*cluster, "down"], env=environment, check=False)


@contextmanager
def fastapi_service(data_dir: Path, settings: Path, bundle: Path) -> Generator[str]:
    """FastAPI under uvicorn with two workers, everything in each."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "bench.fastapi_service:app", "--workers", "2"]
    command += ["--port", str(port), "--log-level", "error", "--no-access-log"]
    environment = {"BENCH_SETTINGS": str(settings), "BENCH_BUNDLE": str(bundle)}
    with _process(command, data_dir / "fastapi.log", environment) as process:
        yield _await_http(process, port, data_dir / "fastapi.log")


@contextmanager
def bentoml_service(data_dir: Path, settings: Path, bundle: Path) -> Generator[str]:
    """BentoML with two workers, everything in each; only where `has_bentoml`."""
    port = free_port()
    command = [sys.executable, "-m", "bentoml", "serve", "bench.bentoml_service:Recommend"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--working-dir", str(Path.cwd())]
    environment = {
        "BENCH_SETTINGS": str(settings),
        "BENCH_BUNDLE": str(bundle),
        "BENTOML_HOME": str(data_dir / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": os.pathsep.join(
            (str(PEER_PACKAGES.resolve()), *filter(None, [os.environ.get("PYTHONPATH")]))
        ),
    }
    with _process(command, data_dir / "bentoml.log", environment) as process:
        yield _await_http(process, port, data_dir / "bentoml.log", "/readyz")


def has_bentoml() -> bool:
    """Whether `make bench-peer` has installed it."""
    return (PEER_PACKAGES / "bentoml").is_dir()


@contextmanager
def naive_graph(data_dir: Path, settings: Path, bundle: Path) -> Generator[str]:
    """The naive Serve composition with Ray's default flags.

    But for one: Ray's workers give way to everything else by default, and ours do not.
    """
    port = free_port()
    command = [sys.executable, "-m", "bench.naive_graph", str(settings), str(bundle), str(port)]
    environment = {"RAY_AUTH_MODE": "disabled", "RAY_worker_niceness": "0"}
    with _process(command, data_dir / "naive.log", environment) as process:
        yield _await_http(process, port, data_dir / "naive.log")


def bare_numerics(
    settings: Path, bundle: Path, *, n_users: int, seconds: float, batch: int, n_processes: int
) -> float:
    """Slates per second of `n_processes` processes together, without HTTP."""
    arguments = [str(settings), str(bundle), str(seconds), str(batch), str(n_users)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "bench.bare_numerics", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **_CPU_ENVIRONMENT},
        )
        for _ in range(n_processes)
    ]
    for worker in workers:
        if worker.stdout is None or worker.stdout.readline().strip() != "READY":
            raise FleetError("a process of the bare numerics did not start; see its error above")
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()
    return sum(float(worker.communicate(timeout=seconds + 60)[0]) for worker in workers)


@contextmanager
def _process(
    command: list[str], log: Path, environment: dict[str, str]
) -> Generator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **_CPU_ENVIRONMENT, **environment},
            start_new_session=True,
        )
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def _await_http(
    process: subprocess.Popen[bytes], port: int, log: Path, path: str = PROBE_PATH
) -> str:
    address = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(address + path, timeout=5):
                return address
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
    raise FleetError(f"{log.stem} did not answer on {address}; its last words:\n{tail}")
