"""The application `recommend` on a Ray of its own, in a child process, for tests over real HTTP.

Run as a program it serves until its standard input ends, so it never outlives its parent.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from recsys.settings import Settings
from tests.lane_ports import free_ports

READY_TIMEOUT_S = 300
ROOT = Path(__file__).parents[1]


@contextmanager
def serving(
    settings: Settings,
    *,
    haproxy: bool,
    variables: Mapping[str, str] | None = None,
    n_nodes: int = 1,
) -> Generator[httpx.Client, None, None]:
    """Serve these settings and yield a client of it; everything is ended on the way out.

    Args:
        variables: put over the environment of every process of it.
        n_nodes: Ray nodes, all on this machine; the ingress is on the first.
    """
    port, *internal = free_ports(4)
    environment = {
        **os.environ,
        **ray_variables(internal, haproxy=haproxy),
        **(variables or {}),
    }
    path = settings.data_dir / "settings.json"
    path.write_text(settings.model_dump_json())
    log_path = settings.data_dir / "server.log"
    with log_path.open("w") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.graph_server", str(path), str(port), str(n_nodes)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        assert child.stdin is not None
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
                _wait_until_ready(client, child, log_path)
                yield client
        finally:
            child.stdin.close()
            child.wait(timeout=90)


def ray_variables(ports: list[int], *, haproxy: bool) -> dict[str, str]:
    """The flags of Ray, with or without its HAProxy ingress and the fast paths."""
    variables = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "0",
        # Its 5 s are short where several suites share the cores.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    }
    if haproxy:
        stats, metrics, fallback = map(str, ports)
        variables |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_STATS_PORT": stats,
            "RAY_SERVE_HAPROXY_METRICS_PORT": metrics,
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": fallback,
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
            "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": (
                "serve_app.http.ingress_middleware:middlewares"
            ),
        }
    return variables


def _wait_until_ready(client: httpx.Client, child: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline_s = time.monotonic() + READY_TIMEOUT_S
    while child.poll() is None and time.monotonic() < deadline_s:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the graph did not come up:\n{log_path.read_text()[-3000:]}")


def main() -> None:
    """Serve the settings of a file on a port until standard input ends."""
    import ray
    from ray import serve

    from serve_app.app import APP_NAME, ROUTE_PREFIX, build

    settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    _start_ray(int(sys.argv[3]))
    serve.start(
        proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": int(sys.argv[2])}
    )
    application = build({"settings": settings.model_dump(mode="json")})
    serve.run(application, name=APP_NAME, route_prefix=ROUTE_PREFIX)
    sys.stdin.read()
    serve.shutdown()
    ray.shutdown()


def _start_ray(n_nodes: int) -> None:
    """One node of this process, or several as a cluster has them."""
    import ray
    from ray.cluster_utils import Cluster

    memory = 100 * 1024 * 1024
    if n_nodes == 1:
        ray.init(
            address="local",
            num_cpus=8,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=memory,
            _temp_dir=os.environ.get("RAY_TMPDIR"),
        )
        return
    cluster = Cluster()
    for _ in range(n_nodes):
        cluster.add_node(num_cpus=4, object_store_memory=memory, include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False)


if __name__ == "__main__":
    main()
