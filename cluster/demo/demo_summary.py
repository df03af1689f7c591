"""What the demo found out, as one document and as tables. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from cluster.demo.demo_rollout import EvidenceVerdict
from cluster.demo.demo_traffic import ShownSlate

if TYPE_CHECKING:
    from rich.table import Table

Z_95 = 1.96


@dataclass(frozen=True, slots=True)
class ClickRate:
    """Clicks per shown item, with a 95% interval over slates."""

    ctr: float
    low: float
    high: float
    n_slates: int
    clicks_per_slate: float

    def as_dict(self) -> dict[str, float]:
        """As a JSON object."""
        return {
            "ctr": round(self.ctr, 5),
            "ctr_low": round(self.low, 5),
            "ctr_high": round(self.high, 5),
            "clicks_per_slate": round(self.clicks_per_slate, 4),
            "n_slates": self.n_slates,
        }


@dataclass(frozen=True, slots=True)
class Refusal:
    """A bundle that was not let in."""

    bundle_id: str
    why_bad: str
    exit_code: int
    reason: str


@dataclass(frozen=True)
class DemoFindings:
    """Everything the summary tells."""

    data: str
    is_simulated: bool
    first_bundle: str
    second_bundle: str
    before: Sequence[ShownSlate]
    after: Sequence[ShownSlate]
    n_imported: int
    n_events: int
    n_slates: int
    n_requests: int
    failures: dict[str, int]
    swaps: Sequence[str]
    refusal: Refusal
    promoted: EvidenceVerdict
    aborted: EvidenceVerdict
    seconds: dict[str, float] = field(default_factory=dict)


def click_rate(shown: Sequence[ShownSlate]) -> ClickRate:
    """Clicks per shown item of some slates; users are what is drawn at random."""
    n_items = sum(slate.n_items for slate in shown)
    if not n_items:
        return ClickRate(0.0, 0.0, 0.0, 0, 0.0)
    ctr = sum(slate.n_clicks for slate in shown) / n_items
    excess: defaultdict[str, float] = defaultdict(float)  # one user's slates are alike
    for slate in shown:
        excess[slate.user_id] += slate.n_clicks - ctr * slate.n_items
    spread = math.fsum(value**2 for value in excess.values())
    half = Z_95 * math.sqrt(spread) / n_items
    return ClickRate(ctr, ctr - half, ctr + half, len(shown), ctr * n_items / len(shown))


def paired_lift(before: Sequence[ShownSlate], after: Sequence[ShownSlate]) -> tuple[float, float]:
    """Change of clicks per slate from `before` to `after`, and half of its 95% interval.

    The two are paired visit by visit, the same users with the same luck. Users are what is drawn
    at random: visits of one user are alike.
    """
    pairs = _pairs(before, after)
    changes: defaultdict[str, list[int]] = defaultdict(list)
    for early, late in pairs:
        changes[early.user_id].append(late.n_clicks - early.n_clicks)
    if len(changes) < 2:
        return 0.0, math.inf
    mean = sum(map(sum, changes.values())) / len(pairs)
    spread = math.fsum((sum(own) - mean * len(own)) ** 2 for own in changes.values())
    n_users = len(changes)
    return mean, Z_95 * math.sqrt(spread * n_users / (n_users - 1)) / len(pairs)


def document_of(findings: DemoFindings) -> dict[str, Any]:
    """The summary as one JSON document."""
    before, after = click_rate(findings.before), click_rate(findings.after)
    change, half = paired_lift(findings.before, findings.after)
    return {
        "data": findings.data,
        "simulated_reactions": True,
        "events": {
            "imported": findings.n_imported,
            "posted": findings.n_events,
            "slates_served": findings.n_slates,
        },
        "bundles": {"first": findings.first_bundle, "second": findings.second_bundle},
        "ctr": {
            "before": before.as_dict(),
            "after": after.as_dict(),
            "relative_change": round(after.ctr / before.ctr - 1.0, 4) if before.ctr else None,
            "paired_change_in_clicks_per_slate": [round(change, 4), round(half, 4)],
            "note": _note(findings),
        },
        "requests": findings.n_requests,
        "failed_requests": sum(findings.failures.values()),
        "failures": findings.failures,
        "swaps": list(findings.swaps),
        "promoted": _verdict_document(findings.promoted),
        "aborted": _verdict_document(findings.aborted),
        "refused": {
            "bundle_id": findings.refusal.bundle_id,
            "what": findings.refusal.why_bad,
            "exit_code": findings.refusal.exit_code,
            "reason": findings.refusal.reason,
        },
        "seconds": findings.seconds,
    }


def tables_of(findings: DemoFindings) -> list[Table | str]:
    """The summary as tables for a person."""
    from rich.table import Table

    document = document_of(findings)
    loop = Table("what", "how it went", title=f"The loop on {findings.data}")
    events = document["events"]
    loop.add_row("events imported", f"{events['imported']:,}")
    loop.add_row("events posted by users", f"{events['posted']:,}")
    loop.add_row("slates served", f"{events['slates_served']:,}")
    loop.add_row("promoted by evidence", findings.promoted.bundle_id)
    loop.add_row("", findings.promoted.sentence)
    failed = f"{document['failed_requests']} of {document['requests']:,} requests"
    loop.add_row("failed", failed)
    refusal = findings.refusal
    loop.add_row("refused", f"{refusal.bundle_id} ({refusal.why_bad})")
    loop.add_row("", f"exit {refusal.exit_code}: {refusal.reason}")
    loop.add_row("aborted by evidence", f"{findings.aborted.bundle_id} (slates drawn at random)")
    loop.add_row("", findings.aborted.sentence)
    for swap in findings.swaps:
        loop.add_row("swapped under traffic", swap)
    total = f"{sum(findings.seconds.values()):.0f} s"
    parts = ", ".join(f"{name} {seconds:.0f}" for name, seconds in findings.seconds.items())
    loop.add_row("time", f"{total} ({parts})")

    rates = Table("bundle", "CTR", "95% interval", "clicks per slate", "slates")
    rates.title = "Click-through rate: clicks per shown item"
    for bundle_id, shown in (
        (f"{findings.first_bundle} (before)", findings.before),
        (f"{findings.second_bundle} (after)", findings.after),
    ):
        rate = click_rate(shown)
        rates.add_row(
            bundle_id,
            f"{rate.ctr:.2%}",
            f"{rate.low:.2%} to {rate.high:.2%}",
            f"{rate.clicks_per_slate:.2f}",
            f"{rate.n_slates:,}",
        )
    change, half = paired_lift(findings.before, findings.after)
    paired = f"change in clicks per slate, visit by visit: {change:+.2f} ± {half:.2f}"
    return [loop, rates, paired, _note(findings)]


def _verdict_document(found: EvidenceVerdict) -> dict[str, Any]:
    figures = asdict(found)
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in figures.items()
    }


def _note(findings: DemoFindings) -> str:
    same = (
        "Both bundles were shown to the same users with the same luck, one after the other; "
        "what is popular and trending moved on in between."
    )
    if findings.is_simulated:
        return same
    return (
        f"{same} Nobody knows how these users would have reacted, so their clicks were made up "
        "from the data's own co-occurrence: the rates show that the loop runs, not how good it is."
    )


def _pairs(
    before: Sequence[ShownSlate], after: Sequence[ShownSlate]
) -> list[tuple[ShownSlate, ShownSlate]]:
    """Slates of equal visits, each shown once per side; one that failed on a side has no pair."""
    early_of = {(slate.user_id, slate.luck): slate for slate in before}
    return [
        (early, late)
        for late in after
        if (early := early_of.pop((late.user_id, late.luck), None)) is not None
    ]
