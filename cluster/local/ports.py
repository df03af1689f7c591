"""The ports a local cluster needs, who holds them now, and what to say about it."""

from __future__ import annotations

import errno
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recsys.errors import ConfigError, FleetError

if TYPE_CHECKING:
    from recsys.settings import Settings

ANY_HOSTS = ("0.0.0.0", "::", "")


@dataclass(frozen=True, slots=True)
class NeededPort:
    """A port and the setting that chose it."""

    port: int
    setting: str
    """Path in the settings tree, such as `serve.port`."""

    @property
    def variable(self) -> str:
        """The environment variable that changes it."""
        return "FLYWHEEL__" + self.setting.upper().replace(".", "__")


@dataclass(frozen=True, slots=True)
class Listener:
    """Who listens on a port; `pid` is None where the system does not tell us."""

    port: int
    pid: int | None
    name: str


def needed_ports(settings: Settings) -> tuple[NeededPort, ...]:
    """Every fixed port that `cluster up` will bind with these settings.

    Raises:
        ConfigError: two of them are the same.
    """
    cluster = settings.cluster
    needed = [
        NeededPort(settings.serve.port, "serve.port"),
        NeededPort(cluster.ray_port, "cluster.ray_port"),
        NeededPort(cluster.metrics_port, "cluster.metrics_port"),
    ]
    if settings.serve.ingress == "haproxy":
        needed += [
            NeededPort(cluster.haproxy_stats_port, "cluster.haproxy_stats_port"),
            NeededPort(cluster.haproxy_metrics_port, "cluster.haproxy_metrics_port"),
            NeededPort(cluster.fallback_port, "cluster.fallback_port"),
        ]
    seen: dict[int, NeededPort] = {}
    for entry in needed:
        other = seen.setdefault(entry.port, entry)
        if other is not entry:
            raise ConfigError(
                f"{other.setting} and {entry.setting} are both {entry.port}, expected different "
                f"ports; set {entry.setting} ({entry.variable})"
            )
    return tuple(needed)


def find_listeners() -> dict[int, Listener]:
    """Who listens on TCP on this machine, by port."""
    import psutil

    found: dict[int, Listener] = {}
    for connection in psutil.net_connections(kind="tcp"):
        if connection.status != psutil.CONN_LISTEN:
            continue
        port = connection.laddr.port
        if connection.pid is None:
            found.setdefault(port, Listener(port, None, ""))
            continue
        try:
            name = psutil.Process(connection.pid).name()
        except psutil.Error:
            name = "?"
        found[port] = Listener(port, connection.pid, name)
    return found


def port_conflicts(
    needed: Iterable[NeededPort], listeners: Mapping[int, Listener], ours: Collection[int] = ()
) -> list[str]:
    """One sentence per needed port that somebody else holds; a listener in `ours` is none."""
    sentences = []
    for entry in needed:
        listener = listeners.get(entry.port)
        if listener is None or listener.pid in ours:
            continue
        holder = (
            f"process {listener.pid} ({listener.name})"
            if listener.pid is not None
            else "a process of another user"
        )
        sentences.append(
            f"port {entry.port} is used by {holder}, expected it free; "
            f"stop that process or set {entry.setting} ({entry.variable})"
        )
    return sentences


def check_bindable(host: str, port: int) -> None:
    """Bind the HTTP address once, to find what only binding tells.

    Raises:
        FleetError: the address is not of this machine, or the port needs more rights, or is taken.
    """
    try:
        address = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(address[0], socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address[4])
    except OSError as error:
        mend = "set serve.port (FLYWHEEL__SERVE__PORT)"
        if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
            mend = "set serve.host (FLYWHEEL__SERVE__HOST) to an address of this machine"
        elif error.errno == errno.EACCES:
            mend = "set serve.port (FLYWHEEL__SERVE__PORT) to 1024 or higher"
        reason = error.strerror or error
        raise FleetError(
            f"cannot listen on {host}:{port} ({reason}), expected a free address; {mend}"
        ) from error


def connect_host(host: str) -> str:
    """The address a client on this machine uses for a server bound to `host`."""
    return "127.0.0.1" if host in ANY_HOSTS else host
