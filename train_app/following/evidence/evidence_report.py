"""The table of `evidence`: what came of each arm's slates in a range of days.

Its intervals are for one look at a time fixed before: who looks again and again until a
difference shows will find one that is not there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from io import StringIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores.evidence.evidence import EvidenceReader
from recsys.stores.evidence.evidence_sums import (
    Coverage,
    LatencyHistogram,
    UserColumns,
    VariantEvidence,
)
from train_app.command_outcome import Outcome
from train_app.following.evidence.user_trail import SEGMENT_KEYS

DAY_MS = 86_400_000
DEFAULT_DAYS = 7
Z_95 = 1.959963984540054
MIN_USERS = 20
"""With fewer users the normal approximation is not worth an interval."""
SEGMENTS = ("user_age", *SEGMENT_KEYS)
FIXED_HORIZON = (
    "95 % intervals: normal approximation clustered by user, fixed horizon: valid for one look at"
    " a time chosen beforehand, not for looking until something shows"
)
_RATES = (
    ("engaged slates", "engaged_slates", "slates"),
    ("engaged items", "engaged_items", "shown"),
    ("wasted items", "wasted_items", "shown"),
)
_TEXT_WIDTH = 170


@dataclass(frozen=True, slots=True)
class Ratio:
    """A ratio of two sums over users with its interval; no bounds where users are too few."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def as_dict(self) -> dict[str, float | None]:
        """As one JSON object."""
        return {"value": self.value, "low": self.low, "high": self.high}


def ratio_by_user(numerators: NDArray[np.int64], denominators: NDArray[np.int64]) -> Ratio:
    """The ratio of the sums of two columns [U]; users are drawn, not slates (delta method)."""
    total = int(denominators.sum())
    if not total:
        return Ratio(None)
    value = float(numerators.sum() / total)
    n_users = int(np.count_nonzero(denominators))
    if n_users < MIN_USERS:
        return Ratio(value)
    residuals = numerators - value * denominators
    error = float(np.sqrt(np.sum(residuals**2) * n_users / (n_users - 1)) / total)
    return Ratio(value, value - Z_95 * error, value + Z_95 * error)


def show_evidence(
    settings: Settings,
    *,
    bundle_ids: Collection[str] = (),
    since_ms: int | None = None,
    until_ms: int | None = None,
    by: str | None = None,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
) -> Outcome:
    """`evidence`: the table per arm over whole days (UTC), the last seven where none are named.

    Args:
        bundle_ids: only these bundles; all where empty.
        by: one of `SEGMENTS`, a row per value of it; without intervals, since those who are
            counted per user are not counted per segment.

    Raises:
        ConfigError: there is no such segment, or the range is empty.
        StoreError: the evidence cannot be read.
    """
    until = _day_end(now_ms() if until_ms is None else until_ms)
    since = until - DEFAULT_DAYS * DAY_MS if since_ms is None else since_ms - since_ms % DAY_MS
    if since >= until:
        raise ConfigError(
            f"the range from {_day(since)} to {_day(until)} is empty, expected --since before"
            " --until"
        )
    if by is not None and by not in SEGMENTS:
        raise ConfigError(f"segment '{by}' is not counted, expected {', '.join(SEGMENTS)}")
    reader = EvidenceReader(settings.evidence_url)
    try:
        rows = _rows(reader, bundle_ids, since, until, by)
        coverage = reader.coverage()
    finally:
        reader.close()
    notes = _absent(rows, bundle_ids) + _notes(rows, coverage, settings, until, by, bundle_ids)
    document = {
        "since_ms": since,
        "until_ms": until,
        "watermark_ms": coverage.watermark_ms,
        "intervals": "fixed-horizon",
        "rows": rows,
        "notes": notes,
    }
    return Outcome(document, _text(rows, notes, since, until))


def _rows(
    reader: EvidenceReader, bundle_ids: Collection[str], since: int, until: int, by: str | None
) -> list[dict[str, Any]]:
    wanted = bundle_ids or None
    if by is None:
        users = reader.per_user(wanted, since, until)
        return [
            _row(arm, "", _user_rates(arm, users))
            for arm in reader.by_variant(wanted, since, until)
        ]
    values: dict[str, list[str]] = {}
    for segment in reader.segments(since, until):
        parts = dict(part.split("=", 1) for part in segment.split(";"))
        values.setdefault(f"{by}={parts.get(by, 'none')}", []).append(segment)
    return [
        _row(arm, value, _plain_rates(arm))
        for value, segments in sorted(values.items())
        for arm in reader.by_variant(wanted, since, until, segments)
        if arm.sums["slates"]
    ]


def _row(arm: VariantEvidence, segment: str, rates: Mapping[str, Ratio]) -> dict[str, Any]:
    # Latencies and failures are not counted by segment.
    latency = LatencyHistogram({}) if segment else arm.served_latency
    outcomes = {} if segment else arm.outcomes
    sessions = arm.sums["sessions"]
    return {
        "bundle_id": arm.bundle_id,
        "variant": arm.variant,
        "experiment": arm.experiment,
        "segment": segment,
        "sums": dict(arm.sums),
        "rates": {name: ratio.as_dict() for name, ratio in rates.items()},
        "kinds": {
            kind: {"n": sums.n, "items": sums.items, "slates": sums.slates, "value": sums.value}
            for kind, sums in sorted(arm.kinds.items())
        },
        "session_minutes": arm.sums["session_ms"] / sessions / 60_000 if sessions else None,
        "outcomes": [
            {"status": status, "reason": reason, "n": n}
            for (status, reason), n in sorted(outcomes.items())
        ],
        "latency_ms": {
            f"p{round(100 * share)}": latency.quantile_ms(share) for share in (0.5, 0.95, 0.99)
        }
        if latency.n
        else {},
    }


def _user_rates(arm: VariantEvidence, users: UserColumns) -> dict[str, Ratio]:
    mine = users.of_arm((arm.bundle_id, arm.variant, arm.experiment))
    sums = {name: column[mine] for name, column in users.sums.items()}
    if not mine.any():
        return _plain_rates(arm)
    sums["wasted_items"] = sums["shown"] - sums["touched_items"]
    rates = {name: ratio_by_user(sums[top], sums[bottom]) for name, top, bottom in _RATES}
    for kind, columns in users.kinds.items():
        if columns["slates"][mine].any():
            rates[kind] = ratio_by_user(columns["slates"][mine], sums["slates"])
    return rates


def _plain_rates(arm: VariantEvidence) -> dict[str, Ratio]:
    sums = {**arm.sums, "wasted_items": arm.wasted_items}
    rates = {name: _ratio(sums[top], sums[bottom]) for name, top, bottom in _RATES}
    kinds = {kind: _ratio(found.slates, sums["slates"]) for kind, found in arm.kinds.items()}
    return rates | {kind: rate for kind, rate in kinds.items() if rate.value}


def _ratio(top: int, bottom: int) -> Ratio:
    return Ratio(top / bottom if bottom else None)


def _absent(rows: list[dict[str, Any]], bundle_ids: Collection[str]) -> list[str]:
    """A sentence for each bundle that was named and has no row."""
    found = {row["bundle_id"] for row in rows}
    return [
        f"no evidence of bundle '{bundle_id}' in this range; 'cluster bundle list' names the"
        " bundles"
        for bundle_id in dict.fromkeys(bundle_ids)
        if bundle_id not in found
    ]


def _notes(
    rows: list[dict[str, Any]],
    coverage: Coverage,
    settings: Settings,
    until: int,
    by: str | None,
    bundle_ids: Collection[str],
) -> list[str]:
    if not rows and bundle_ids:
        return []
    if not rows:
        return ["nothing is counted in this range; is the application 'workers' running?"]
    notes = [FIXED_HORIZON] if by is None else []
    open_ms = coverage.watermark_ms - settings.attribution.window_s * 1000
    if until > open_ms:
        notes.append(
            f"slates shown after {datetime.fromtimestamp(open_ms / 1000, UTC):%Y-%m-%d %H:%M} UTC"
            " can still be engaged with: their wasted items are an upper bound"
        )
    return notes


def _text(rows: list[dict[str, Any]], notes: list[str], since: int, until: int) -> str:
    buffer = StringIO()
    console = Console(file=buffer, width=_TEXT_WIDTH)
    served = [row for row in rows if row["sums"]["slates"]]
    kinds = sorted(
        {name for row in served for name in row["rates"]} - {name for name, *_ in _RATES}
    )
    table = Table(title=f"evidence of {_day(since)} to {_day(until - 1)}", title_justify="left")
    for name in ("bundle", "variant", "segment"):
        if name != "segment" or any(row["segment"] for row in rows):
            table.add_column(name, no_wrap=True)
    rates = [name for name, *_ in _RATES] + kinds
    for name in ("slates", *rates, "sessions", "minutes", "p99 ms"):
        table.add_column(name, justify="right")
    for row in served:
        table.add_row(
            row["bundle_id"],
            row["variant"],
            *([row["segment"]] if any(one["segment"] for one in rows) else []),
            f"{row['sums']['slates']:,}",
            *(_cell(row["rates"].get(name)) for name in rates),
            f"{row['sums']['sessions']:,}",
            f"{row['session_minutes'] or 0:.1f}",
            f"{row['latency_ms'].get('p99', 0):.0f}",
        )
    if served:
        console.print(table)
    for line in [*_asides(rows), *notes]:
        console.print(line, markup=False, highlight=False)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _asides(rows: list[dict[str, Any]]) -> list[str]:
    """What the table has no column for: organic engagements, failures, items off the slate."""
    lines = []
    for row in rows:
        name = f"{row['bundle_id']} {row['variant']}".strip()
        if not row["sums"]["slates"] and row["kinds"]:
            counts = ", ".join(f"{kind} {sums['n']:,}" for kind, sums in row["kinds"].items())
            lines.append(f"{name}: {counts}, credited to no slate")
        if row["sums"]["off_slate"]:
            lines.append(f"{name}: {row['sums']['off_slate']:,} engagements with unshown items")
        lines += [
            f"{name}: {outcome['n']:,} x {outcome['status']} {outcome['reason']}"
            for outcome in row["outcomes"]
        ]
    return lines


def _cell(rate: Mapping[str, float | None] | None) -> str:
    if rate is None or rate["value"] is None:
        return ""
    if rate["low"] is None or rate["high"] is None:
        return f"{rate['value']:.2%}"
    # The normal interval has the estimate in its middle.
    return f"{rate['value']:.2%}\n±{rate['high'] - rate['value']:.2%}"


def _day_end(at_ms: int) -> int:
    return -(-at_ms // DAY_MS) * DAY_MS


def _day(at_ms: int) -> str:
    return f"{datetime.fromtimestamp(at_ms / 1000, UTC):%Y-%m-%d}"
