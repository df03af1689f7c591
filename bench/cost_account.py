"""Where the processor time of a request goes: meters, threads and processes joined.

What meters and names do not tell apart is shown as unexplained, never spread over the rest.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.cost_parts import (
    LOOP,
    LOOP_THREAD,
    Kind,
    Meter,
    part_of_process,
    part_of_thread,
    stage_of,
)
from bench.cpu_clocks import ThreadClock

UNKNOWN = "unknown process"
NOT_OF_A_REQUEST = "beside the requests"
"""The place of processes that run whether anybody asks or not."""


@dataclass(frozen=True, slots=True)
class CostRow:
    """One part of a request, in microseconds of processor time per request."""

    place: str
    """The deployment, or what else the process is."""
    part: str
    kind: Kind
    cpu_us: float
    at_rest_us_per_s: float = 0.0
    """What the same used per second before the load."""


@dataclass(frozen=True, slots=True)
class CostAccount:
    """What a request costs, and how long its threads were ready and waited for a processor."""

    rows: tuple[CostRow, ...]
    waited_us: Mapping[str, float]
    """By place, per request."""
    n_requests: int

    @property
    def total_us(self) -> float:
        """All processor time of all processes of the graph, per request."""
        return sum(row.cpu_us for row in self.rows)

    @property
    def unexplained_share(self) -> float:
        """Of the total."""
        nobody = sum(row.cpu_us for row in self.rows if row.kind == "unexplained")
        return nobody / self.total_us if self.total_us else 0.0

    def by_kind(self) -> dict[str, float]:
        """Microseconds per request of every kind, the greatest first."""
        sums: dict[str, float] = defaultdict(float)
        for row in self.rows:
            sums[row.kind] += row.cpu_us
        return dict(sorted(sums.items(), key=lambda entry: -entry[1]))

    def as_dict(self) -> dict[str, Any]:
        """The account as JSON values."""
        return {
            "n_requests": self.n_requests,
            "cpu_us_per_request": self.total_us,
            "unexplained_share": self.unexplained_share,
            "by_kind": self.by_kind(),
            "waited_us_per_request": dict(self.waited_us),
            "rows": [asdict(row) for row in self.rows],
        }


MeterReading = Mapping[int, Sequence[tuple[float, int]]]
"""By process: microseconds and calls of every meter."""


def account(
    threads: Sequence[ThreadClock],
    at_rest: Sequence[ThreadClock],
    rest_s: float,
    commands: Mapping[int, str],
    metered: MeterReading,
    meters: Sequence[Meter],
    n_requests: int,
) -> CostAccount:
    """Join what was measured while `n_requests` were answered.

    Args:
        threads: what every thread used under the load.
        at_rest: the same without load, for `rest_s` seconds before.
        commands: by process, its command line.
        metered: what the meters counted under the load.
    """
    loaded = _by_part(threads, commands, metered, meters)
    rest = _by_part(at_rest, commands, {}, meters)
    rest_by_place: dict[str, float] = defaultdict(float)
    for (place, _, _), us in rest.items():
        rest_by_place[place] += us / rest_s
    totals: dict[str, float] = defaultdict(float)
    for (place, _, _), us in loaded.items():
        totals[place] += us
    rows = [
        CostRow(place, part, kind, us / n_requests, _rest_of(place, part, rest, rest_s))
        for (place, part, kind), us in loaded.items()
    ]
    rows.sort(key=lambda row: (-totals[row.place], -row.cpu_us))
    waited: dict[str, float] = defaultdict(float)
    for thread in threads:
        waited[_place_of(commands.get(thread.pid, ""))] += thread.waited_us / n_requests
    return CostAccount(tuple(rows), dict(waited), n_requests)


def _rest_of(place: str, part: str, rest: Mapping[tuple[str, str, Kind], float], s: float) -> float:
    return sum(us for (where, what, _), us in rest.items() if (where, what) == (place, part)) / s


def _place_of(command: str) -> str:
    return stage_of(command) or part_of_process(command) or UNKNOWN


def _by_part(
    threads: Sequence[ThreadClock],
    commands: Mapping[int, str],
    metered: MeterReading,
    meters: Sequence[Meter],
) -> dict[tuple[str, str, Kind], float]:
    """Microseconds by place, part and kind."""
    spent: dict[tuple[str, str, Kind], float] = defaultdict(float)
    own: dict[tuple[int, str], float] = defaultdict(float)
    for thread in threads:
        command = commands.get(thread.pid, "")
        stage = stage_of(command)
        if stage is None:
            part = part_of_process(command)
            kind: Kind = "unexplained" if part is None else _kind_of_process(part)
            spent[part or UNKNOWN, NOT_OF_A_REQUEST if part else UNKNOWN, kind] += thread.cpu_us
        elif thread.name.startswith(LOOP_THREAD):
            own[thread.pid, LOOP] += thread.cpu_us
        else:
            own[thread.pid, part_of_thread(thread.name)] += thread.cpu_us
    for pid, reading in metered.items():
        stage = stage_of(commands.get(pid, ""))
        if stage is None:
            continue
        for meter, (us, _) in zip(meters, reading, strict=True):
            spent[stage, meter.part, meter.kind] += us
            # A meter's time is part of its thread's, which would count it again.
            thread_part = meter.thread or LOOP
            own[pid, thread_part] -= us
    for (pid, part), us in own.items():
        spent[stage_of(commands[pid]) or UNKNOWN, part, _kind_of_thread(part)] += us
    return {key: us for key, us in spent.items() if us > 0.0}


def _kind_of_process(part: str) -> Kind:
    if part.startswith("http"):
        return "http"
    return "logging" if part == "followers of the log" else "control"


def _kind_of_thread(part: str) -> Kind:
    if part == LOOP:
        return "unexplained"
    return "logging" if part.startswith(("log", "telemetry")) else "control"
