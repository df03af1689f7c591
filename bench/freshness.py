"""How soon an event that was posted is in its user's features: `python -m bench.freshness`.

From sending `POST /v1/events` to a read of the feature store that shows it, through the running
service on each log; with nothing else to do, and while other events arrive.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import numpy as np
from rich.console import Console
from rich.table import Table

from bench.event_service import LOGS, N_ITEMS, EventService, event_service, usable_logs
from recsys.errors import FleetError, RecsysError
from recsys.stores.features.feature_store import FeatureStore
from recsys.stores.features.open_features import open_features

TARGET_P99_S = 2.0
BACKGROUND_BATCH = 100
_POLL_S = 0.002
_GIVE_UP_S = 30.0


@dataclass(frozen=True, slots=True)
class Freshness:
    """One run on one log."""

    log: str
    background_events_per_s: float
    """What else was posted meanwhile, as reached."""
    n_samples: int
    p50_s: float
    p99_s: float
    max_s: float


def run(
    data_dir: Path,
    n_samples: int,
    logs: Sequence[str] = LOGS,
    background: Sequence[int] = (0, 1_000),
) -> list[Freshness]:
    """Measure every log that can be used here.

    Args:
        background: events a second that are posted meanwhile, one run for each.

    Raises:
        FleetError: the service failed, or an event never showed.
    """
    found = []
    for log in [log for log in usable_logs() if log in logs]:
        with event_service(data_dir, log) as service:
            for events_per_s in background:
                found.append(_measure(service, log, n_samples, events_per_s))
    return found


def show(console: Console, found: Sequence[Freshness]) -> None:
    """Print the table."""
    table = Table(title="from POST /v1/events to a changed feature")
    for column in ("log", "other events/s", "samples", "p50 s", "p99 s", "max s", "p99 <= 2 s"):
        table.add_column(column, justify="left" if column == "log" else "right")
    for run in found:
        table.add_row(
            run.log,
            f"{run.background_events_per_s:,.0f}",
            str(run.n_samples),
            f"{run.p50_s:.3f}",
            f"{run.p99_s:.3f}",
            f"{run.max_s:.3f}",
            "reached" if run.p99_s <= TARGET_P99_S else "MISSED",
        )
    console.print(table)


def _measure(service: EventService, log: str, n_samples: int, events_per_s: int) -> Freshness:
    store = open_features(service.settings)
    stop, posted = threading.Event(), [0]
    load = threading.Thread(target=_background, args=(service.url, events_per_s, stop, posted))
    began_s = time.monotonic()
    if events_per_s:
        load.start()
    try:
        with httpx.Client(base_url=service.url, timeout=10) as client:
            waits = [_one(client, store, f"fresh-{events_per_s}-{n}") for n in range(n_samples)]
    finally:
        seconds = time.monotonic() - began_s
        stop.set()
        if events_per_s:
            load.join()
        store.close()
    p50, p99 = np.quantile(waits, [0.5, 0.99])
    return Freshness(log, posted[0] / seconds, n_samples, float(p50), float(p99), max(waits))


def _one(client: httpx.Client, store: FeatureStore, user_id: str) -> float:
    """Post one event of a new user and wait until the store knows it; the seconds that took."""
    event = {"kind": "view", "user_id": user_id, "item_id": "1"}
    began_s = time.monotonic()
    response = client.post("/v1/events", json={"events": [event]})
    if response.status_code != httpx.codes.ACCEPTED:
        raise FleetError(f"an event was answered with {response.status_code}: {response.text}")
    while True:
        (state,) = store.read_users([user_id])
        waited_s = time.monotonic() - began_s
        if state.history:
            return waited_s
        if waited_s > _GIVE_UP_S:
            raise FleetError(
                f"an event is not in the features after {waited_s:.0f} s, expected at most"
                f" {TARGET_P99_S:g} s; see 'cluster status'"
            )
        time.sleep(_POLL_S)


def _background(url: str, events_per_s: int, stop: threading.Event, posted: list[int]) -> None:
    """Post batches evenly; how many events were taken goes into `posted`."""
    rng = np.random.default_rng(1)
    pause_s = BACKGROUND_BATCH / events_per_s
    due_s = time.monotonic()
    with httpx.Client(base_url=url, timeout=10) as client:
        while not stop.is_set():
            events = [
                {"kind": "view", "user_id": str(user), "item_id": str(item)}
                for user, item in rng.integers(N_ITEMS, size=(BACKGROUND_BATCH, 2)).tolist()
            ]
            response = client.post("/v1/events", json={"events": events})
            posted[0] += BACKGROUND_BATCH * (response.status_code == httpx.codes.ACCEPTED)
            due_s += pause_s
            stop.wait(max(0.0, due_s - time.monotonic()))


def main() -> int:
    """Measure and print; with `--json` one document."""
    parser = argparse.ArgumentParser(prog="python -m bench.freshness", description=__doc__)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-events"))
    parser.add_argument("--log", action="append", choices=LOGS)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    found = run(arguments.data_dir.resolve(), arguments.samples, arguments.log or LOGS)
    if arguments.json:
        print(json.dumps([asdict(run) for run in found], indent=2))
    else:
        show(Console(), found)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
