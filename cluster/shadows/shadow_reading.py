"""What `cluster shadow status` reads of a shadow: its counted answers and the live ones beside."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.shadows.shadow_record import ShadowRecord
    from recsys.settings import Settings
    from recsys.stores.evidence.evidence_sums import ShadowSums


@dataclass(frozen=True, slots=True)
class LiveAnswers:
    """What users were answered by other bundles in the hours of a shadow."""

    since_ms: int
    """The hour it began in, since evidence is kept by the hour."""
    n: int
    n_degraded: int
    """Those that lacked a stage: they are never copied."""

    @property
    def left_out_share(self) -> float | None:
        """Degraded ones among all, 0-1; None without any."""
        return self.n_degraded / self.n if self.n else None


def read_sums(settings: Settings, record: ShadowRecord) -> ShadowSums:
    """What its answers came to.

    Raises:
        StoreError: the evidence cannot be read.
    """
    from recsys.stores.evidence.evidence import EvidenceReader

    reader = EvidenceReader(settings.evidence_url)
    try:
        return reader.shadow(record.shadow_id)
    finally:
        reader.close()


def read_live(settings: Settings, record: ShadowRecord, now_ms: int) -> LiveAnswers:
    """The live answers that a shadow could have had copies of, whole and degraded.

    Raises:
        StoreError: the evidence cannot be read.
    """
    from recsys.evidence.arm_sample import request_counts
    from recsys.stores.evidence.evidence import EvidenceReader
    from recsys.stores.evidence.evidence_tables import HOUR_MS

    since_ms = record.started_ms - record.started_ms % HOUR_MS
    until_ms = now_ms if record.stopped_ms is None else record.stopped_ms
    reader = EvidenceReader(settings.evidence_url)
    try:
        arms = reader.by_variant(None, since_ms, until_ms + 1)
    finally:
        reader.close()
    counts = [request_counts(one) for one in arms if one.bundle_id not in ("", record.bundle_id)]
    return LiveAnswers(
        since_ms,
        int(sum(one["answered"] for one in counts)),
        int(sum(one["degraded"] for one in counts)),
    )


def stable_id(settings: Settings) -> str | None:
    """The bundle that is stable now."""
    from recsys.stores.control.control import ControlReader
    from recsys.traffic import STABLE

    return ControlReader(settings.control_url).view().aliases.get(STABLE)
