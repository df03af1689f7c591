"""What requests waited for, from the impressions a graph logged: batch sizes and stage times."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from recsys.events import Impression, decode_event
from recsys.stores.log.event_log import SqliteEventLog

_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class BatchWaits:
    """Wall-clock milliseconds of the mean request."""

    mean_batch: float
    """Requests in the batch of the mean request."""
    stage_ms: dict[str, float]
    """Of its batch in each stage."""
    latency_ms: float
    """As the client saw it."""

    @property
    def elsewhere_ms(self) -> float:
        """HTTP on both sides, the wait for a batch to begin, and what follows the last stage."""
        return self.latency_ms - sum(self.stage_ms.values())

    def as_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {**asdict(self), "elsewhere_ms": self.elsewhere_ms}


def batch_waits(impressions: Iterable[Impression], latency_ms: float) -> BatchWaits:
    """The waits of these requests; those of one batch have the very same stage times.

    Args:
        latency_ms: mean, as the client saw it.
    """
    batches: Counter[tuple[tuple[str, float], ...]] = Counter(
        tuple(impression.stage_ms.items()) for impression in impressions
    )
    n_requests = sum(batches.values())
    sums: dict[str, float] = defaultdict(float)
    for times, n in batches.items():
        for stage, elapsed_ms in times:
            sums[stage] += n * elapsed_ms
    n_or_one = max(n_requests, 1)
    return BatchWaits(
        sum(n * n for n in batches.values()) / n_or_one,
        {stage: total / n_or_one for stage, total in sums.items()},
        latency_ms,
    )


def impressions_since(log: SqliteEventLog, offsets: Mapping[int, int]) -> list[Impression]:
    """All impressions that were logged from these offsets on."""
    found: list[Impression] = []
    for partition, begin in offsets.items():
        offset = begin
        while records := log.read(partition, offset, _AT_ONCE):
            events = [decode_event(record.value) for record in records]
            found += [event for event in events if isinstance(event, Impression)]
            offset = records[-1].offset + 1
    return found
