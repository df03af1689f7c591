"""What a fault is: the service it needs, what is done to it, and the row that it becomes."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.chaos_finding import Finding
from tests.serving_faults.fault_load import Load
from tests.serving_faults.fault_place import Place
from tests.serving_faults.fault_services import Service


@dataclass
class Run:
    """One fault being carried out."""

    place: Place
    load: Load
    server: Any
    """What the service's `beside` has started; None for nothing."""
    n_done: int = 0
    healed_s: list[float] = field(default_factory=list)
    """From each fault, or its end, to whole answers."""
    findings: list[Finding] = field(default_factory=list)

    def healed(self, elapsed_s: float) -> None:
        """Note how long it took until all was well again."""
        self.healed_s.append(max(0.0, elapsed_s))
        print(f"  healed in {self.healed_s[-1]:.1f} s; {len(self.load.seen):,} requests,"
              f" {self.load.failed.total()} failed", file=sys.stderr, flush=True)  # fmt: skip

    def found(self, what: str, value: str, holds: bool) -> None:
        """Note something that had to hold."""
        self.findings.append(Finding(what, value, holds))


@dataclass(frozen=True, slots=True)
class Fault:
    """One row of the table."""

    name: str
    what: str
    """What is done, for a person."""
    act: Callable[[Run], None]
    """Does it and waits until it is over; asserts and notes what must hold beside no failures."""
    service: Service
    """Of several faults in a row that need the same one, all are done to one."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a fault did."""

    name: str
    what: str
    n_done: int
    n_requests: int
    failed: Counter[str]
    n_degraded: int
    degraded: Counter[str]
    least_coverage: float
    worst_ms: float
    healed_s: tuple[float, ...]
    findings: tuple[Finding, ...]

    @property
    def holds(self) -> bool:
        """Whether everything that had to was so."""
        return all(finding.holds for finding in self.findings)

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "fault": self.name,
            "what": self.what,
            "times": self.n_done,
            "requests": self.n_requests,
            "failed": dict(self.failed),
            "answers_degraded": self.n_degraded,
            "degraded": dict(self.degraded),
            "least_coverage": self.least_coverage,
            "worst_ms": round(self.worst_ms, 1),
            "healed_s": [round(s, 2) for s in self.healed_s],
            "findings": {f.what: [f.value, f.holds] for f in self.findings},
            "holds": self.holds,
        }

    def markdown(self) -> str:
        """As a row of the table in the docs."""
        healed = f"{max(self.healed_s):.1f} s" if self.healed_s else ""
        cells = (
            f"`{self.name}`",
            f"{self.n_done}",
            f"{self.n_requests:,}",
            f"{self.failed.total()}",
            f"{self.n_degraded}",
            f"{self.least_coverage:g}",
            f"{self.worst_ms:.0f} ms",
            healed,
            "holds" if self.holds else "MISSED",
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| fault | times | requests | failed | degraded | least coverage | slowest | healed in |"
    " |\n|---|---|---|---|---|---|---|---|---|"
)


def row_of(fault: Fault, run: Run) -> Row:
    """The row, with what must hold of every fault."""
    load = run.load
    answered = [one for one in load.seen if one.status == 200]
    n_failed = load.failed.total()
    run.found("faults", f"{run.n_done}", run.n_done > 0)
    run.found("failed requests", f"{n_failed} of {len(load.seen):,}", n_failed == 0)
    return Row(
        fault.name,
        fault.what,
        run.n_done,
        len(load.seen),
        load.failed,
        sum(bool(one.degraded) for one in answered),
        load.degraded,
        load.least_coverage,
        max((one.latency_ms for one in load.seen), default=0.0),
        tuple(run.healed_s),
        tuple(run.findings),
    )


def row_of_none(fault: Fault, reason: str) -> Row:
    """The row of a fault that was not carried out: it holds nothing."""
    finding = Finding("carried out to its end", reason, holds=False)
    nothing: Counter[str] = Counter()
    return Row(fault.name, fault.what, 0, 0, nothing, 0, nothing, 0.0, 0.0, (), (finding,))


def table_of(rows: Sequence[Row]) -> str:
    """The table of the docs, and below it what did not hold."""
    missed = [
        f"- `{row.name}`: {finding.what}: {finding.value}"
        for row in rows
        for finding in row.findings
        if not finding.holds
    ]
    return "\n".join([HEAD, *(row.markdown() for row in rows), *([""] if missed else []), *missed])
