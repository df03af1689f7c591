"""The settings tree: every key, its unit, its legal range and its only default.

Reading the TOML layers, the environment and the error for a wrong key are `settings_files`.
Each app receives its own branch; nothing here is a singleton.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from recsys.data_settings import (
    AttributionSettings,
    CheckSettings,
    EventSettings,
    FeatureSettings,
    LakeSettings,
    WorkerSettings,
)
from recsys.learning_settings import GateSettings, ScheduleSettings, TrainSettings
from recsys.security_settings import SecuritySettings
from recsys.settings_branch import Branch, Port, Positive, Share


class RetrievalSettings(Branch):
    """Retrieval: sources and how many candidates each brings."""

    n_candidates: Annotated[int, Field(ge=1, le=2000)] = 200
    """Candidates handed to the scorer per request."""
    n_shards: Positive = 2
    """Slices of the item index; each is its own deployment."""
    n_popular: Annotated[int, Field(ge=0)] = 20
    """Candidates from the popular source."""
    n_fresh: Annotated[int, Field(ge=0)] = 10
    """Candidates from the fresh source."""
    fresh_days: Annotated[float, Field(gt=0)] = 7.0
    """An item is fresh for so many days after it appeared, counted back from the newest item."""
    n_neighbours: Annotated[int, Field(ge=0, le=200)] = 20
    """Candidates that go together with the user's newest items; 0 switches the source off."""
    neighbour_seeds: Annotated[int, Field(ge=1, le=50)] = 10
    """Newest items of a user, engaged with in no negative way, whose neighbours are candidates."""
    n_trending: Annotated[int, Field(ge=0)] = 10
    """Candidates from the trending source; 0 switches it off."""
    exact_below: Annotated[int, Field(ge=0)] = 5_000
    """A shard with fewer items than this is searched exactly."""
    recall_target: Share = 0.97
    """Recall@100 against exact search that the built index is tuned to reach."""


class OrderingSettings(Branch):
    """Ordering: scored candidates to a slate."""

    pool: Positive = 60
    """Best-scored candidates the slate is chosen from."""
    diversity: Share = 0.15
    """Weight of similarity to the items above (MMR): 0 is score order, 1 ignores the score."""
    max_per_category: Annotated[int, Field(ge=0)] = 0
    """At most so many items of one first category in a slate; 0 is no cap."""
    max_per_creator: Annotated[int, Field(ge=0)] = 0
    """At most so many items of one creator in a slate; 0 is no cap."""
    exploration: Share = 0.05
    """Probability that a position is drawn at random from the pool instead of taken in order."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Softmax temperature of the exploring draw, over utilities; large is uniform."""


class ServeSettings(Branch):
    """The request graph."""

    host: str = "127.0.0.1"
    """Address the HTTP port is bound to, where the ingress allows the choice."""
    port: Port = 8000
    """HTTP port."""
    placement: Literal["link", "handle", "fused"] = "link"
    """Where stages run: `link`, each its own deployment, called over direct connections; `handle`,
    the same, called through Serve; `fused`, inside the gateway."""
    ingress: Literal["haproxy", "proxy"] = "haproxy"
    """HTTP ingress of Ray Serve."""
    gateway_replicas: Positive = 1
    shard_replicas: Positive = 1
    scorer_replicas: Positive = 1
    ordering_replicas: Positive = 1
    max_batch: Annotated[int, Field(ge=1, le=512)] = 64
    """Requests in one micro-batch at most."""
    max_batches_in_flight: Positive = 2
    """Micro-batches of one bundle between stages at once, per gateway replica."""
    max_concurrent: Positive = 512
    """Requests in a gateway replica at once at most; one more is answered 503. The limit that
    follows latency stays below it, but for bursts."""
    min_concurrent: Positive = 32
    """What that limit never falls below."""
    deadline_ms: Annotated[int, Field(ge=1, le=60_000)] = 1_000
    """Deadline of a request that names none."""
    stage_timeout_ms: Positive = 400
    """A stage call that takes longer is given up, within the deadline."""
    ladder_wait_ms: Annotated[int, Field(ge=0)] = 250
    """Where requests keep waiting longer for their batch to begin, less is asked for an answer:
    fewer candidates, then no scores, then popular items; 0 keeps every answer whole."""
    plan_poll_s: Annotated[float, Field(gt=0)] = 1.0
    """How often replicas read the control store."""
    keep_resident: Annotated[int, Field(ge=0)] = 1
    """Earlier bundles kept loaded after a promotion, for an instant way back."""
    log_unshown: Annotated[int, Field(ge=0)] = 5
    """Scored and not shown candidates logged with each impression."""
    log_dropped: Annotated[int, Field(ge=0, le=100)] = 3
    """Retrieved and not scored candidates drawn for each impression's log; 0 draws none."""
    log_history: Annotated[int, Field(ge=0)] = 20
    """History items logged with each impression: the features as used."""
    explain_events: Annotated[int, Field(ge=0, le=100)] = 20
    """Newest events of a history that an explanation leaves out one at a time."""
    max_body_bytes: Positive = 65_536
    """Largest request body, in bytes."""
    max_events_body_bytes: Positive = 1_048_576
    """Largest body of `POST /v1/events`, in bytes."""
    shadow_queued: Positive = 64
    """Copies of requests that wait for a shadow at most, per gateway replica; more are dropped."""
    shadow_in_flight: Positive = 1
    """Micro-batches of copies at once, per gateway replica."""
    shadow_time_share: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Of the time while users' requests are under way, copies are for at most this share."""
    shadow_deadline_ms: Annotated[int, Field(ge=1, le=60_000)] = 1_000
    """A shadow that takes longer has failed the copy."""


class ClusterSettings(Branch):
    """Operator's side and the local Ray cluster."""

    nodes: Positive = 1
    """Ray nodes on this machine; several, to try what machines of their own would do."""
    logical_cpus: Positive = 8
    """Admission tokens of each local Ray node; not a reservation of cores."""
    object_store_mb: Annotated[int, Field(ge=80)] = 200
    start_timeout_s: Positive = 120
    ready_timeout_s: Positive = 120
    """How long a rollout waits for every replica to load and check a bundle."""
    ray_port: Port = 6390
    """GCS port of the local Ray cluster; off Ray's own default, so that both can run."""
    haproxy_stats_port: Port = 8404
    haproxy_metrics_port: Port = 9101
    fallback_port: Port = 8500
    metrics_port: Port = 8090
    """Prometheus series of this node."""
    alarm_webhook_url: str = ""
    """Where the controller posts alarms of rollouts as JSON; empty posts none."""


class Settings(Branch):
    """Everything. `data_dir` holds all local state."""

    data_dir: Path = Path("var")
    registry_url: str = ""
    """Where bundles live, any fsspec URL; empty is `data_dir/bundles`."""
    lake_url: str = ""
    """Where the lake lives; empty is `data_dir/lake`."""
    control_store_url: str = ""
    """SQLAlchemy URL of the control store; empty is `data_dir/control.sqlite`."""
    evidence_store_url: str = ""
    """SQLAlchemy URL of the evidence; empty is `data_dir/evidence.sqlite`."""
    events: EventSettings = EventSettings()
    features: FeatureSettings = FeatureSettings()
    lake: LakeSettings = LakeSettings()
    attribution: AttributionSettings = AttributionSettings()
    checks: CheckSettings = CheckSettings()
    workers: WorkerSettings = WorkerSettings()
    retrieval: RetrievalSettings = RetrievalSettings()
    ordering: OrderingSettings = OrderingSettings()
    serve: ServeSettings = ServeSettings()
    train: TrainSettings = TrainSettings()
    gate: GateSettings = GateSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    cluster: ClusterSettings = ClusterSettings()
    security: SecuritySettings = SecuritySettings()

    @property
    def registry_location(self) -> str:
        """The registry's URL or directory."""
        return self.registry_url or str(self.data_dir / "bundles")

    @property
    def lake_location(self) -> str:
        """The lake's URL or directory."""
        return self.lake_url or str(self.data_dir / "lake")

    @property
    def log_path(self) -> Path:
        """The embedded event log."""
        return self.data_dir / "events.sqlite"

    @property
    def feature_path(self) -> Path:
        """The embedded feature store."""
        return self.data_dir / "features.sqlite"

    @property
    def control_url(self) -> str:
        """SQLAlchemy URL of the control store."""
        return self.control_store_url or f"sqlite:///{self.data_dir / 'control.sqlite'}"

    @property
    def evidence_url(self) -> str:
        """SQLAlchemy URL of the evidence."""
        return self.evidence_store_url or f"sqlite:///{self.data_dir / 'evidence.sqlite'}"

    @property
    def run_dir(self) -> Path:
        """Process records and logs of what `cluster up` started."""
        return self.data_dir / "run"
