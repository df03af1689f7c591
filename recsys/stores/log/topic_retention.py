"""How long a Kafka topic keeps a record at most. Reads the topic's settings, changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.data_settings import EventSettings
from recsys.stores.log.kafka_topic import client_options, kafka_errors


def longest_kept_ms(settings: EventSettings) -> int | None:
    """The time after which nothing is left of what is in the topic now; None: it may stay for ever.

    Raises:
        StoreError: no broker answers.
    """
    from kafka.admin import ConfigResource, ConfigResourceType, KafkaAdminClient

    topic = settings.kafka.topic
    with kafka_errors(settings.kafka):
        admin = KafkaAdminClient(**client_options(settings.kafka))
        try:
            asked = [ConfigResource(ConfigResourceType.TOPIC, topic)]
            described = admin.describe_configs(asked, config_filter="all")
        finally:
            admin.close()
    return kept_ms(described["topic"][topic])


def kept_ms(configs: Mapping[str, Mapping[str, Any]]) -> int | None:
    """The same from the topic's described settings.

    Kafka removes whole segments, when their newest record is older than `retention.ms`; a segment
    takes new records for `segment.ms`, and then stands on the disk for `file.delete.delay.ms`.
    """
    if "delete" not in str(configs["cleanup.policy"]["value"]):
        return None
    parts = [
        int(configs[name]["value"])
        for name in ("retention.ms", "segment.ms", "file.delete.delay.ms")
    ]
    return None if min(parts) < 0 else sum(parts)
