"""Which side of an experiment may be rolled out, by its report. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster.experiments.experiment_record import ExperimentRecord
from recsys.errors import ConfigError
from recsys.evidence.comparison import Verdict
from recsys.experiment_plan import CONTROL, Layer


@dataclass(frozen=True, slots=True)
class Promotion:
    """The side whose bundle is rolled out, and why."""

    arm: str
    bundle_id: str
    why: str


def check_promotable(record: ExperimentRecord) -> None:
    """Refuse an experiment that has no bundle to roll out, before a report is made.

    Raises:
        ConfigError: it is of orderings.
    """
    if record.layer is Layer.ORDERING:
        changed = ", ".join(f"ordering.{k} = {v}" for k, v in record.arms[-1].ordering.items())
        raise ConfigError(
            f"experiment {record.name} is of orderings, expected one of bundles to promote: an "
            f"ordering policy belongs to a bundle; set {changed}, train and roll that out, and "
            "stop this one without --promote"
        )


def promotion(
    record: ExperimentRecord, report: Mapping[str, Any], *, full: bool, arm: str | None = None
) -> Promotion:
    """Which side is promoted, if the report lets it.

    Args:
        report: the report's document; empty where there is none.
        full: whatever the report says.
        arm: this treatment rather than the report's winner.

    Raises:
        ConfigError: the verdict is no pass of that side, or there is no bundle to roll out.
    """
    check_promotable(record)
    verdict = report.get("verdict") or {}
    names = [one.name for one in record.arms if one.name != CONTROL]
    passing = [
        side["arm"]
        for side in verdict.get("sides", ())
        if side["primary"]["verdict"] == Verdict.PASS
    ]
    chosen = arm or verdict.get("winner") or (names[-1] if full else None)
    if chosen is not None and chosen not in names:
        raise ConfigError(f"--arm {chosen} is no treatment, expected one of {', '.join(names)}")
    if not full and (chosen is None or chosen not in passing):
        raise ConfigError(
            f"experiment {record.name} has no pass to promote: "
            f"{verdict.get('message', 'no report')}; wait for more users, or promote it anyway "
            "with --full, which is recorded"
        )
    bundle_id = next(one.bundle_id for one in record.arms if one.name == chosen)
    said = verdict.get("message") or "no report could be made"
    forced = "" if chosen in passing else "promoted without a pass (--full): "
    return Promotion(str(chosen), bundle_id, f"{forced}{said}")
