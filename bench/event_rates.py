"""How many events a second `POST /v1/events` takes in durably: `python -m bench.event_rates`.

Batches over HTTP into the whole service, on each log; what was acknowledged is counted again in
the log. The followers run meanwhile, as they do in service.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench.event_service import LOGS, N_ITEMS, N_USERS, event_service, usable_logs
from bench.wrk_load import LoadFigures, parse_wrk
from recsys.errors import FleetError, RecsysError
from recsys.settings import Settings
from recsys.stores.log.open_log import open_log

BATCH = 100
CONNECTIONS = (1, 8, 32)
TARGET_EVENTS_PER_S = 3_000
_SPOOL_S = 60.0
"""What a slow broker sent into the spool has to be in the log so soon."""
_POLL_S = 0.2

_SCRIPT = """
math.randomseed(7)
wrk.method = "POST"
wrk.headers["content-type"] = "application/json"
local kinds = {{"view", "view", "view", "click", "purchase"}}
request = function()
  local events = {{}}
  for n = 1, {batch} do
    events[n] = string.format('{{"kind":"%s","user_id":"%d","item_id":"%d"}}',
      kinds[math.random(#kinds)], math.random(0, {n_users} - 1), math.random(0, {n_items} - 1))
  end
  return wrk.format(nil, "/v1/events", nil, '{{"events":[' .. table.concat(events, ",") .. ']}}')
end
"""


@dataclass(frozen=True, slots=True)
class EventRate:
    """One run on one log."""

    log: str
    connections: int
    events_per_s: float
    p50_ms: float
    """Of one request with its batch."""
    p99_ms: float
    n_errors: int


def run(
    data_dir: Path, seconds: int, logs: Sequence[str] = LOGS, console: Console | None = None
) -> list[EventRate]:
    """Measure every log that can be used here.

    Raises:
        FleetError: the service or wrk failed.
        RecsysError: the log has fewer events than were acknowledged.
    """
    rates = []
    for log in [log for log in usable_logs() if log in logs]:
        with event_service(data_dir, log) as service:
            _post(service.url, 8, 2)
            before = _n_logged(service.settings)
            runs = [_post(service.url, connections, seconds) for connections in CONNECTIONS]
            n_acknowledged = BATCH * sum(run.n_requests - run.n_errors for run in runs)
            n_logged = _await_logged(service.settings, before + n_acknowledged) - before
        if n_logged < n_acknowledged:
            raise RecsysError(
                f"the {log} log has {n_logged} of {n_acknowledged} acknowledged events; the rate"
                " means nothing"
            )
        for figures in runs:
            rate = EventRate(
                log,
                figures.connections,
                BATCH * figures.requests_per_s,
                figures.p50_ms,
                figures.p99_ms,
                figures.n_errors,
            )
            rates.append(rate)
            if console is not None:
                console.print(f"[dim]{log}: {rate.events_per_s:,.0f} events/s[/dim]")
    return rates


def show(console: Console, rates: Sequence[EventRate]) -> None:
    """Print the table."""
    table = Table(title=f"POST /v1/events in batches of {BATCH}, durable when answered")
    for column in ("log", "connections", "events/s", "p50 ms", "p99 ms", "errors"):
        table.add_column(column, justify="left" if column == "log" else "right")
    for rate in rates:
        table.add_row(
            rate.log,
            str(rate.connections),
            f"{rate.events_per_s:,.0f}",
            f"{rate.p50_ms:.1f}",
            f"{rate.p99_ms:.1f}",
            str(rate.n_errors),
        )
    console.print(table)
    for log in dict.fromkeys(rate.log for rate in rates):
        best = max(rate.events_per_s for rate in rates if rate.log == log)
        verdict = "reached" if best >= TARGET_EVENTS_PER_S else "MISSED"
        console.print(f"{log}: {best:,.0f} events/s, {TARGET_EVENTS_PER_S:,} {verdict}")


def _post(url: str, connections: int, seconds: int) -> LoadFigures:
    if shutil.which("wrk") is None:
        raise FleetError("wrk is not installed; install it, as in 'apt-get install wrk'")
    script = _SCRIPT.format(batch=BATCH, n_users=N_USERS, n_items=N_ITEMS)
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout=10s", "--latency"]
        done = subprocess.run(
            [*command, f"-s{file.name}", url],
            capture_output=True,
            text=True,
            timeout=seconds + 60,
            check=False,
        )
    if done.returncode:
        raise FleetError(f"wrk against {url} failed: {(done.stderr or done.stdout).strip()}")
    return parse_wrk(done.stdout, connections)


def _await_logged(settings: Settings, n_expected: int) -> int:
    """Records in the log once it has as many as expected; fewer where that never comes."""
    give_up_at_s = time.monotonic() + _SPOOL_S
    while (n_logged := _n_logged(settings)) < n_expected and time.monotonic() < give_up_at_s:
        time.sleep(_POLL_S)
    return n_logged


def _n_logged(settings: Settings) -> int:
    log = open_log(settings)
    try:
        return sum(log.end_offsets().values())
    finally:
        log.close()


def main() -> int:
    """Measure and print; with `--json` one document."""
    parser = argparse.ArgumentParser(prog="python -m bench.event_rates", description=__doc__)
    parser.add_argument("--seconds", type=int, default=6, help="of load per figure")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-events"))
    parser.add_argument("--log", action="append", choices=LOGS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    progress = Console(stderr=True)
    rates = run(arguments.data_dir.resolve(), arguments.seconds, arguments.log or LOGS, progress)
    if arguments.json:
        print(json.dumps([asdict(rate) for rate in rates], indent=2))
    else:
        show(Console(), rates)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
