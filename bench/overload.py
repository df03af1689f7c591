"""What a service does with three times the load it can bear: `python -m bench.overload`.

The capacity is measured first, with callers who wait for each answer; then requests come at half
of it, at three times it, and at half again, whatever the answers do. Then a ladder of loads, of
which `--pictures` draws goodput and latency. Exits with 1 where a figure misses what must hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.event_service import N_USERS, event_service
from bench.open_loop import Phase, Seen, Times, send_load
from bench.overload_curves import (
    LoadStep,
    goodput_picture,
    ladder_phases,
    latency_picture,
    steps_of,
)
from bench.wrk_load import LoadFigures, need_wrk, run_wrk
from recsys.errors import FleetError, RecsysError

PATH = "/v1/recommend?user_id=%d"
CONNECTIONS = (32, 128, 256)
TIMES = 3.0
BESIDE_S = 10.0
"""Time at half of the capacity before and after."""
LEAST_GOODPUT = 0.8
MOST_P99_RATIO = 2.0
MOST_REFUSAL_MS = 50.0
MOST_RECOVERY_S = 5.0
_BUCKET_S = 0.5
_USUAL_SLACK = 2.0
"""An answer after the overload is a usual one up to so many p99 of those before it."""


@dataclass(frozen=True, slots=True)
class Overload:
    """What a run saw."""

    capacity_per_s: float
    """Best rate of answers to callers who wait for each."""
    connections: int
    """Callers at that rate."""
    capacity_p99_ms: float
    half_p99_ms: float
    """At half of that rate, before the overload."""
    seconds: float
    offered: float
    """Requests sent during the overload, as a multiple of the capacity."""
    goodput: float
    """Answers a second during the overload, as a share of the capacity."""
    accepted_p50_ms: float
    accepted_p99_ms: float
    refused_share: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    recovery_s: float
    """From the end of the overload until all are answered as before it."""
    n_refused_before: int
    """At half of the capacity, where nobody should be."""
    n_failed: int
    """Neither answered nor refused, during all of it, the ladder of loads included."""
    n_unsent: int
    """Requests the client could not send."""

    @property
    def p99_ratio(self) -> float:
        """Of the accepted to those at capacity."""
        return self.accepted_p99_ms / self.capacity_p99_ms

    def rows(self) -> list[tuple[str, str, bool | None]]:
        """What was seen, and whether it is as it must be; None where nothing is asked."""
        at_capacity = f"{self.capacity_per_s:,.0f} req/s, {self.connections} connections"
        return [
            ("capacity", at_capacity, None),
            ("p99 at capacity", f"{self.capacity_p99_ms:.1f} ms", None),
            ("p99 at half of it", f"{self.half_p99_ms:.1f} ms", None),
            ("offered", f"{self.offered:.2f} x for {self.seconds:.0f} s", self.n_unsent == 0),
            ("goodput of capacity", f"{self.goodput:.0%}", self.goodput >= LEAST_GOODPUT),
            (
                "p99 of accepted",
                f"{self.accepted_p99_ms:.1f} ms, {self.p99_ratio:.2f} x",
                self.p99_ratio <= MOST_P99_RATIO,
            ),
            (
                "p99 of a refusal",
                f"{self.refusal_p99_ms:.1f} ms (p50 {self.refusal_p50_ms:.1f})",
                self.refusal_p99_ms <= MOST_REFUSAL_MS,
            ),
            ("refused", f"{self.refused_share:.0%}", None),
            ("recovery", f"{self.recovery_s:.1f} s", self.recovery_s <= MOST_RECOVERY_S),
            ("refused at half load", f"{self.n_refused_before}", self.n_refused_before == 0),
            ("failed", f"{self.n_failed}", self.n_failed == 0),
        ]


def quantile_ms(latencies_ms: Times, q: float) -> float:
    """That quantile; 0 of none."""
    return float(np.quantile(latencies_ms, q)) if len(latencies_ms) else 0.0


def recovery_s(after: Seen, ended_s: float, until_s: float, usual_ms: float) -> float:
    """From the end of the overload to the first half second from which all is usual.

    Args:
        after: requests due from `ended_s` to `until_s`.
        usual_ms: what an answer may take.
    """
    recovered_s = ended_s
    for began_s in np.arange(ended_s, until_s, _BUCKET_S):
        bucket = after.during(began_s, began_s + _BUCKET_S)
        all_answered = bool((bucket.status == HTTPStatus.OK).all())
        if not all_answered or quantile_ms(bucket.latency_ms, 0.99) > usual_ms:
            recovered_s = began_s + _BUCKET_S
    return float(recovered_s - ended_s)


def figures_of(seen: Seen, best: LoadFigures, seconds: float) -> Overload:
    """The figures of a whole run: half, three times, half the best rate."""
    ended_s = BESIDE_S + seconds
    before = seen.during(0.0, BESIDE_S)
    over = seen.during(BESIDE_S, ended_s)
    until_s = ended_s + BESIDE_S
    accepted = over.latencies_of(HTTPStatus.OK)
    refused = over.latencies_of(HTTPStatus.SERVICE_UNAVAILABLE)
    half_p99_ms = quantile_ms(before.latencies_of(HTTPStatus.OK), 0.99)
    usual_ms = max(_USUAL_SLACK * half_p99_ms, best.p99_ms)
    known = (HTTPStatus.OK, HTTPStatus.SERVICE_UNAVAILABLE)
    # By when an answer came: what was accepted at the end is answered after it.
    came_s = seen.due_s + seen.latency_ms / 1000
    is_good = (seen.status == HTTPStatus.OK) & (came_s >= BESIDE_S) & (came_s < ended_s)
    return Overload(
        capacity_per_s=best.requests_per_s,
        connections=best.connections,
        capacity_p99_ms=best.p99_ms,
        half_p99_ms=half_p99_ms,
        seconds=seconds,
        offered=len(over.status) / seconds / best.requests_per_s,
        goodput=float(is_good.sum()) / seconds / best.requests_per_s,
        accepted_p50_ms=quantile_ms(accepted, 0.5),
        accepted_p99_ms=quantile_ms(accepted, 0.99),
        refused_share=len(refused) / max(1, len(over.status)),
        refusal_p50_ms=quantile_ms(refused, 0.5),
        refusal_p99_ms=quantile_ms(refused, 0.99),
        recovery_s=recovery_s(seen.during(ended_s, until_s), ended_s, until_s, usual_ms),
        n_refused_before=int((before.status == HTTPStatus.SERVICE_UNAVAILABLE).sum()),
        n_failed=int((~np.isin(seen.status, known)).sum()),
        n_unsent=seen.n_unsent,
    )


def run(
    data_dir: Path, seconds: float, capacity_s: int, console: Console
) -> tuple[Overload, list[LoadStep]]:
    """Measure one service: the overload, and the ladder of loads after it.

    Raises:
        FleetError: the service or wrk failed.
    """
    with event_service(data_dir, "sqlite") as service:
        run_wrk(service.url, PATH, N_USERS, 32, 3)
        found = []
        for connections in CONNECTIONS:
            found.append(run_wrk(service.url, PATH, N_USERS, connections, capacity_s))
            console.print(f"[dim]{found[-1]}[/dim]")
        whole = [figures for figures in found if figures.n_errors == 0]
        if not whole:
            raise FleetError("no run was without errors, so there is no capacity; see them above")
        best = max(whole, key=lambda figures: figures.requests_per_s)
        rate = best.requests_per_s
        phases = [
            Phase(rate / 2, BESIDE_S),
            Phase(TIMES * rate, seconds),
            Phase(rate / 2, BESIDE_S),
        ]
        judged_s = sum(phase.seconds for phase in phases)
        ladder = ladder_phases(rate)
        address = urlsplit(service.url)
        paths = [PATH % user for user in range(N_USERS)]
        seen = send_load(str(address.hostname), int(address.port or 80), paths, [*phases, *ladder])
    return figures_of(seen, best, seconds), steps_of(seen, judged_s, ladder)


def draw(folder: Path, steps: Sequence[LoadStep], capacity_per_s: float) -> None:
    """Write both pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "overload-goodput.svg").write_text(goodput_picture(steps, capacity_per_s))
    (folder / "overload-latency.svg").write_text(latency_picture(steps))


def show(console: Console, rows: Sequence[tuple[str, str, bool | None]]) -> None:
    """Print the table."""
    table = Table(title=f"{TIMES:.0f} times the capacity", min_width=80)
    for column in ("what", "measured", ""):
        table.add_column(column)
    for what, measured, holds in rows:
        table.add_row(what, measured, "" if holds is None else "holds" if holds else "MISSED")
    console.print(table)


def main() -> int:
    """Measure and print; with `--json` one document."""
    parser = argparse.ArgumentParser(prog="python -m bench.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="of overload")
    parser.add_argument("--capacity-seconds", type=int, default=8, help="of load per figure")
    parser.add_argument("--data-dir", type=Path, default=Path("var/bench-overload"))
    parser.add_argument("--pictures", type=Path, help="folder of overload-*.svg")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    need_wrk()
    progress = Console(stderr=True)
    data_dir = arguments.data_dir.resolve()
    found, steps = run(data_dir, arguments.seconds, arguments.capacity_seconds, progress)
    if arguments.pictures:
        draw(arguments.pictures, steps, found.capacity_per_s)
    if arguments.json:
        document = asdict(found) | {"ladder": [asdict(step) for step in steps]}
        print(json.dumps(document, indent=2))
    show(progress if arguments.json else Console(), found.rows())
    return int(any(holds is False for _, _, holds in found.rows()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
