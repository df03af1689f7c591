"""Counts, levels and timings of a replica, gathered per batch, handed to Ray once a second.

Without Ray they are only gathered. Tags are few-valued by construction: status, stage, reason.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

Tags = tuple[tuple[str, str], ...]

MAX_OBSERVED = 20_000
"""Values of one histogram kept between two flushes; past that they are dropped."""

COUNTERS = {
    "flywheel_requests": ("Requests answered, by route and status.", ("route", "status")),
    "flywheel_shed": ("Requests refused because of load, by reason.", ("reason",)),
    "flywheel_left": ("Requests not worked on because their caller had gone.", ()),
    "flywheel_degraded": ("Answers that lacked something, by reason.", ("reason",)),
    "flywheel_bundle_miss": ("Stage calls for a bundle the stage did not hold.", ("bundle_id",)),
    "flywheel_hedged_calls": (
        "Stage calls that a second replica was asked for because the first was late.",
        ("stage",),
    ),
    "flywheel_refused_links": (
        "Connections that came to no stage link: `tls`, `greeting` or `crowd`.",
        ("stage", "reason"),
    ),
    "flywheel_experiment_fallbacks": (
        "Requests of an experiment that stable answered, because their side's bundle was missing.",
        ("experiment",),
    ),
    "flywheel_ignored_experiments": (
        "Requests of users of an experiment whose ordering settings could not be read.",
        ("experiment",),
    ),
    "flywheel_shadow_answers": (
        "Copies of requests answered by shadows, by the status a user would have got.",
        ("status",),
    ),
    "flywheel_shadow_dropped": (
        "Copies of requests that were not answered or not recorded, by reason.",
        ("reason",),
    ),
    "flywheel_dropped_events": ("Log records dropped because the queue was full.", ()),
    "flywheel_failed_log_writes": ("Writes that the event log or its spool refused.", ()),
    "flywheel_detoured_events": ("Events that went to the broker by way of the spool.", ()),
    "flywheel_damaged_log_files": ("Damaged files of log and spool that were set aside.", ()),
}
GAUGES = {
    "flywheel_concurrency_limit": "Slates a gateway works on at once at most, by their latency.",
    "flywheel_slates_inside": "Slates let in and not yet answered.",
    "flywheel_queued_events": "Events in memory that wait to be written.",
    "flywheel_spooled_events": "Events on disk that wait for the broker.",
    "flywheel_spooled_bytes": "Size on disk of what waits for the broker.",
}
HISTOGRAMS = {
    "flywheel_request_latency_ms": (
        "Time from reading a request to having its answer.",
        ("variant",),
        (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000),
    ),
    "flywheel_shadow_latency_ms": (
        "Time of a shadow's answer in the pipeline.",
        (),
        (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000, 2000, 5000),
    ),
    "flywheel_shadow_stage_ms": (
        "Time of a stage for a micro-batch of copies.",
        ("stage",),
        (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000),
    ),
    "flywheel_batch_size": (
        "Requests in a micro-batch.",
        (),
        (1, 2, 4, 8, 16, 32, 64, 128, 256, 512),
    ),
    "flywheel_stage_ms": (
        "Time of a stage for a micro-batch.",
        ("stage",),
        (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000),
    ),
    "flywheel_coverage": (
        "Share of the index that answered, per micro-batch.",
        (),
        (0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0),
    ),
}


@dataclass(slots=True)
class Gathered:
    """What came together since the last flush."""

    counts: Counter[tuple[str, Tags]] = field(default_factory=Counter)
    levels: dict[str, float] = field(default_factory=dict)
    values: dict[tuple[str, Tags], list[float]] = field(default_factory=lambda: defaultdict(list))


class Telemetry:
    """Gathers; cheap enough for every request."""

    def __init__(self) -> None:
        self._gathered = Gathered()
        self._lock = threading.Lock()

    def count(self, name: str, n: int = 1, **tags: str) -> None:
        """Add to a counter of `COUNTERS`."""
        with self._lock:
            self._gathered.counts[name, tuple(tags.items())] += n

    def set_level(self, name: str, value: float) -> None:
        """Say where a gauge of `GAUGES` stands."""
        with self._lock:
            self._gathered.levels[name] = value

    def observe(self, name: str, value: float, **tags: str) -> None:
        """Add a value to a histogram of `HISTOGRAMS`."""
        with self._lock:
            values = self._gathered.values[name, tuple(tags.items())]
            if len(values) < MAX_OBSERVED:
                values.append(value)

    def take(self) -> Gathered:
        """Everything gathered since the last call."""
        with self._lock:
            gathered, self._gathered = self._gathered, Gathered()
        return gathered


def pass_on_stages(copies: Telemetry, telemetry: Telemetry) -> None:
    """Move the stage times of shadows to their own series; the rest of it is in their events."""
    for (name, tags), values in copies.take().values.items():
        if name == "flywheel_stage_ms":
            for value in values:
                telemetry.observe("flywheel_shadow_stage_ms", value, **dict(tags))


class RayMetrics:
    """Hands what was gathered to Ray's metrics, from a thread of its own."""

    def __init__(self, telemetry: Telemetry, flush_s: float = 1.0) -> None:
        from ray.serve import metrics

        # Ray's stub says a tuple of one; it takes any number of tags.
        make: Any = metrics

        self._telemetry = telemetry
        self._flush_s = flush_s
        self._stopped = threading.Event()
        self._counters: dict[str, Any] = {
            name: make.Counter(name, description=text, tag_keys=tags)
            for name, (text, tags) in COUNTERS.items()
        }
        self._gauges: dict[str, Any] = {
            name: make.Gauge(name, description=text) for name, text in GAUGES.items()
        }
        self._histograms: dict[str, Any] = {
            name: make.Histogram(
                name, description=text, boundaries=[float(b) for b in bounds], tag_keys=tags
            )
            for name, (text, tags, bounds) in HISTOGRAMS.items()
        }
        threading.Thread(target=self._loop, name="telemetry", daemon=True).start()

    def flush(self) -> None:
        """Hand over once."""
        gathered = self._telemetry.take()
        for (name, tags), n in gathered.counts.items():
            self._counters[name].inc(n, tags=dict(tags))
        for name, level in gathered.levels.items():
            self._gauges[name].set(level)
        for (name, tags), values in gathered.values.items():
            for value in values:
                self._histograms[name].observe(value, tags=dict(tags))

    def stop(self) -> None:
        """Hand over what is left and end the thread."""
        self._stopped.set()

    def _loop(self) -> None:
        while not self._stopped.wait(self._flush_s):
            self.flush()
        self.flush()
