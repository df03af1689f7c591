"""Opens the feature store that the settings name, to read or to write."""

from __future__ import annotations

import os

from recsys.settings import Settings
from recsys.stores.features.feature_store import FeatureStore, SqliteFeatureStore
from recsys.stores.features.feature_update import FeatureWriter
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.redis_features.redis_feature_writer import RedisFeatureWriter
from recsys.stores.redis_features.redis_features import RedisFeatureStore

PASSWORD_VARIABLE = "FLYWHEEL_REDIS_PASSWORD"


def open_features(settings: Settings) -> FeatureStore:
    """The store to read from; connects at the first read.

    Raises:
        ConfigError: the settings of the server cannot be used.
    """
    features = settings.features
    if features.backend == "redis":
        timeout_s = features.redis_timeout_ms / 1000
        return RedisFeatureStore(features.redis_url, redis_password(), timeout_s)
    return SqliteFeatureStore(settings.feature_path)


def open_feature_writer(settings: Settings) -> FeatureWriter:
    """The store to write to.

    For what follows the log, imports histories or forgets a user, all of it in `train_app`.

    Raises:
        ConfigError: the settings of the server cannot be used.
        StoreError: the store is away or damaged.
    """
    if settings.features.backend == "redis":
        return RedisFeatureWriter(settings.features.redis_url, redis_password())
    return SqliteFeatureWriter(settings.feature_path)


def redis_password() -> str:
    """The server's password; empty where it wants none, or the URL has it."""
    return os.environ.get(PASSWORD_VARIABLE, "")
