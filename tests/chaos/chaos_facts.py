"""The settings of a failure run, and what was seen during it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from recsys.data_settings import (
    AttributionSettings,
    EventSettings,
    FeatureSettings,
    KafkaSettings,
)
from recsys.errors import StoreError
from recsys.settings import Settings
from tests.chaos.chaos_plan import ChaosPlan, Fault
from tests.evidence_by_hand import GAP_MS, WINDOW_MS

T = TypeVar("T")

TOPIC = "events"
_PATIENCE_S = 60.0
_RETRY_S = 0.5


@dataclass
class RunFacts:
    """What was seen during a run, for the verdict."""

    settings: Settings
    base_ms: int
    acknowledged: list[Path]
    """A file per producer."""
    n_faults: Counter[Fault] = field(default_factory=Counter)
    memory_before_mb: float = 0.0
    """The largest producer before the cut."""
    memory_away_mb: float = 0.0
    """The largest producer from the cut until every spool was empty."""
    max_spooled: int = 0
    n_dropped: int = 0
    """Impressions that the producers gave up, as far as they told; nobody was promised them."""
    drained_s: float | None = None
    """From the brokers' return to empty spools."""
    produced_s: float = 0.0
    settled_s: float | None = None
    """From the last acknowledged event to followers at the log's end."""
    n_repeated: int = 0
    """Doubles in the log that followers passed over, as far as they told."""
    problems: list[str] = field(default_factory=list)


def run_settings(
    plan: ChaosPlan, directory: Path, servers: tuple[str, ...], redis_url: str
) -> Settings:
    """The settings that every process of the run gets."""
    kafka = KafkaSettings(topic=TOPIC, delivery_timeout_s=plan.delivery_timeout_s)
    if servers:
        kafka = kafka.model_copy(update={"bootstrap_servers": servers})
    events = {"backend": plan.backend, "n_partitions": plan.n_partitions, "kafka": kafka}
    features: dict[str, object] = {"backend": plan.features, "history_limit": 200}
    if redis_url:
        features["redis_url"] = redis_url
    return Settings(
        data_dir=directory,
        events=EventSettings.model_validate(events),
        features=FeatureSettings.model_validate(features),
        attribution=AttributionSettings(window_s=WINDOW_MS // 1000, session_gap_s=GAP_MS // 1000),
    )


def patiently(act: Callable[[], T]) -> T:
    """What `act` answers; a broker that was killed just now may keep it waiting for a minute."""
    give_up_at_s = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return act()
        except StoreError:
            if time.monotonic() >= give_up_at_s:
                raise
            time.sleep(_RETRY_S)
