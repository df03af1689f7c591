"""One wrk run against a loopback address, and what it printed as figures. Knows no service."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from recsys.errors import FleetError

CONNECTIONS = (1, 32, 128, 256)
_TRIAL_S = 3
_UNITS_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}

_SCRIPT = """
math.randomseed(tonumber(os.getenv("WRK_SEED") or "1"))
request = function()
  return wrk.format("GET", string.format("{path}", math.random(0, {n_users} - 1)))
end
"""
_POST_SCRIPT = """
math.randomseed(tonumber(os.getenv("WRK_SEED") or "1"))
headers = {{["content-type"] = "application/json"}}
request = function()
  body = string.format([[{body}]], math.random(0, {n_users} - 1))
  return wrk.format("POST", "{path}", headers, body)
end
"""
_PAUSES = """
delay = function()
  return math.floor(-{pause_ms} * math.log(1 - math.random()) + 0.5)
end
"""


@dataclass(frozen=True, slots=True)
class LoadFigures:
    """What one run saw: throughput, latency percentiles in ms, and answers that were not 2xx."""

    connections: int
    requests_per_s: float
    p50_ms: float
    p99_ms: float
    n_requests: int
    n_errors: int

    def as_dict(self) -> dict[str, float]:
        """The figures as JSON values."""
        return asdict(self)


def _milliseconds(text: str) -> float:
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text).groups()  # type: ignore[union-attr]
    return float(value) * _UNITS_MS[unit]


def _figure(pattern: str, output: str, default: str = "0") -> str:
    found = re.search(pattern, output)
    return found.group(1) if found else default


def parse_wrk(output: str, connections: int) -> LoadFigures:
    """The figures of wrk's text, `--latency` included."""
    socket_errors = re.search(
        r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output
    )
    n_errors = int(_figure(r"Non-2xx or 3xx responses: (\d+)", output))
    n_errors += sum(int(count) for count in socket_errors.groups()) if socket_errors else 0
    return LoadFigures(
        connections=connections,
        requests_per_s=float(_figure(r"Requests/sec:\s+([\d.]+)", output)),
        p50_ms=_milliseconds(_figure(r"50%\s+([\d.]+(?:us|ms|s|m))", output, "0ms")),
        p99_ms=_milliseconds(_figure(r"99%\s+([\d.]+(?:us|ms|s|m))", output, "0ms")),
        n_requests=int(_figure(r"(\d+) requests in", output)),
        n_errors=n_errors,
    )


def need_wrk() -> None:
    """Ask for the load generator, which benches do before they start a service for it.

    Raises:
        FleetError: wrk is not installed.
    """
    if shutil.which("wrk") is None:
        raise FleetError("wrk is not installed; install it, as in 'apt-get install wrk'")


def wrk_script(path: str, n_users: int, pause_ms: float = 0.0, body: str = "") -> str:
    """What makes wrk's requests; see `run_wrk` for the arguments."""
    template = _POST_SCRIPT if body else _SCRIPT
    pauses = _PAUSES.format(pause_ms=pause_ms) if pause_ms > 0 else ""
    return template.format(path=path, body=body, n_users=n_users) + pauses


def run_wrk(
    address: str,
    path: str,
    n_users: int,
    connections: int,
    duration_s: int,
    pause_ms: float = 0.0,
    body: str = "",
) -> LoadFigures:
    """Load `address` with GET `path`, whose `%d` becomes a random user of `n_users`.

    Args:
        body: JSON to POST to `path` instead; the `%d` stands here.
        pause_ms: each connection waits so long on average, exponentially drawn, before it asks.

    Raises:
        FleetError: wrk is not installed, or it could not connect.
    """
    need_wrk()
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(wrk_script(path, n_users, pause_ms, body))
        script.flush()
        done = subprocess.run(
            [
                "wrk",
                "-t1",
                f"-c{connections}",
                f"-d{duration_s}s",
                "--timeout=10s",
                "--latency",
                f"-s{Path(script.name)}",
                address,
            ],
            capture_output=True,
            text=True,
            timeout=duration_s + 60,
            check=False,
        )
    if done.returncode != 0:
        raise FleetError(f"wrk against {address} failed: {(done.stderr or done.stdout).strip()}")
    return parse_wrk(done.stdout, connections)


def run_wrk_at(
    address: str, path: str, n_users: int, rate: float, connections: int, duration_s: int
) -> LoadFigures:
    """Load `address` with about `rate` requests a second from clients that pause in between.

    A client asks again only once it was answered, so a service that cannot keep up is asked less:
    the rate that was reached is in the figures.
    """
    pause_ms = 1000 * connections / rate
    trial = run_wrk(address, path, n_users, connections, _TRIAL_S, pause_ms)
    if trial.requests_per_s > 0:
        # What is left of the time between two requests of a client is not pause but answer.
        answer_ms = 1000 * connections / trial.requests_per_s - pause_ms
        pause_ms = max(pause_ms - max(answer_ms, 0.0), 0.0)
    return run_wrk(address, path, n_users, connections, duration_s, pause_ms)
