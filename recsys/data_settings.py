"""Settings of the data paths: the log, the features, the lake, and the workers that follow the log.

Part of the tree of `settings`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from recsys.settings_branch import Branch, Positive, Share


class KafkaSettings(Branch):
    """The broker, where the log is Kafka's. A password comes from `FLYWHEEL_KAFKA_PASSWORD`."""

    bootstrap_servers: tuple[str, ...] = ("127.0.0.1:9092",)
    topic: str = "events"
    delivery_timeout_s: Annotated[float, Field(gt=0, le=600)] = 3.0
    """A write without the broker's acknowledgement after this time goes to the spool."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    sasl_username: str = ""
    ssl_ca_file: str = ""
    """Certificates of the authority; empty uses the system's."""
    ssl_cert_file: str = ""
    """This client's certificate, where the broker asks for one."""
    ssl_key_file: str = ""


class EventSettings(Branch):
    """The event log."""

    backend: Literal["sqlite", "kafka"] = "sqlite"
    """`sqlite` is a file under `data_dir`; `kafka` is the topic of `events.kafka`."""
    n_partitions: Positive = 4
    """Partitions of the log; one user's events stay in one of them. Fixed at first use."""
    max_queued: Positive = 20_000
    """Impressions and outcomes waiting to be written; past that they are dropped and counted."""
    negative_kinds: tuple[str, ...] = ("dismiss", "dislike", "hide", "report", "unfollow")
    """Kinds of engagement that say the user did not want the item."""
    dedup_window_s: Positive = 172_800
    """An event id that comes again within this time counts once."""
    retention_s: Positive = 604_800
    """The embedded log keeps records that everybody has read for so long."""
    spool_bytes: Annotated[int, Field(ge=1_048_576)] = 268_435_456
    """Size on disk of what waits for an absent broker, per gateway replica, in bytes."""
    kafka: KafkaSettings = KafkaSettings()


class FeatureSettings(Branch):
    """The online feature store."""

    backend: Literal["sqlite", "redis"] = "sqlite"
    """`sqlite` is a file under `data_dir`; `redis` is the server of `redis_url`."""
    redis_url: str = "redis://127.0.0.1:6379/0"
    """A password in it belongs into the environment: `FLYWHEEL_REDIS_PASSWORD`."""
    redis_timeout_ms: Positive = 20
    """A read of the online store that takes longer is given up and the user is anonymous."""
    history_limit: Positive = 200
    """Engagements kept per user, newest ones."""
    popular_window_s: Positive = 86_400
    """The live window of the `popular` source, in seconds of event time."""
    popular_limit: Positive = 200
    """Items kept in the live popular list."""
    poll_interval_s: Annotated[float, Field(gt=0)] = 0.1
    """How often the follower looks for new events."""
    lateness_s: Positive = 3_600
    """An engagement so much older than the newest of its partition changes no window any more."""
    trending_limit: Positive = 200
    """Items kept in the trending list."""
    pair_history: Annotated[int, Field(ge=0)] = 5
    """An engagement is counted together with so many before it of the same user."""
    pair_window_s: Positive = 86_400
    """Engagements further apart than this, in seconds of event time, are no pair."""
    pair_days: Positive = 14
    """Pairs are counted over so many days of event time."""
    neighbours_limit: Positive = 50
    """Neighbours kept per item for item-to-item retrieval."""


class LakeSettings(Branch):
    """The archiver, and what it keeps."""

    commit_every_s: Annotated[float, Field(gt=0)] = 5.0
    """What has been read of the log is committed at least so often."""
    commit_records: Positive = 50_000
    """Records in one commit at most."""
    compact_files: Positive = 20
    """A day with more small files than this is rewritten into few."""
    target_file_mb: Positive = 128
    """Size that compaction aims at, in MB."""
    retention_days: Annotated[float, Field(ge=0)] = 7.0
    """Files that no newer version needs stay so long, and as long as a bundle names their version.
    """


class AttributionSettings(Branch):
    """Sessions, and which engagement a slate is credited with."""

    session_gap_s: Positive = 1_800
    """A pause of a user longer than this begins a new session."""
    window_s: Positive = 86_400
    """An engagement is credited to an impression of its item at most so long before it."""


class CheckSettings(Branch):
    """The data checks before each training: what they look at, warn of and refuse."""

    skew_tolerance: Share = 0.0
    """Share of compared impressions whose history may differ from the log's; above it refuses."""
    skew_users: Positive = 2_000
    """Users whose histories are made again, drawn by hash."""
    skew_days: Annotated[float, Field(gt=0)] = 7.0
    """Impressions of so many days are compared, back from the newest."""
    drift_warning: Annotated[float, Field(gt=0)] = 0.2
    """A feature whose population stability index is above this is told."""
    drift_rows: Positive = 1_000
    """Rows on either side without which drift is not judged."""
    recency_warning_days: Annotated[float, Field(gt=0)] = 2.0
    """Age of the newest logged engagement that is told."""
    recency_error_days: Annotated[float, Field(gt=0)] = 30.0
    """Age of the newest logged engagement that refuses."""
    volume_days: Annotated[int, Field(ge=3)] = 14
    """Days before the newest complete one that it is compared with."""
    volume_low: Share = 0.6
    """A day with less than this share of the usual engagements is told."""
    volume_high: Annotated[float, Field(gt=1)] = 3.0
    """A day with more than so many times the usual engagements is told."""
    volume_refused: Share = 0.1
    """A day with less than this share refuses, where `volume_refused_from` are usual."""
    volume_refused_from: Positive = 10_000
    """Engagements a day from which on a day of few refuses: the data path is broken."""
    future_share: Share = 0.01
    """Share of a table's rows that may lie in the future; above it refuses."""


class WorkerSettings(Branch):
    """The application `workers`: replicas share the log's partitions."""

    archiver_replicas: Positive = 1
    feature_replicas: Positive = 1
    evidence_replicas: Positive = 1
    member_timeout_s: Annotated[float, Field(ge=1)] = 5.0
    """A replica that was not heard of for so long loses its partitions to the others."""
