"""What is said of a Redis server that cannot be used; without a server."""

from __future__ import annotations

import pytest

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.open_features import open_features
from recsys.stores.redis_features.redis_draft import with_database
from recsys.stores.redis_features.redis_features import RedisFeatureStore
from recsys.stores.redis_features.redis_link import RedisLink, without_password
from tests.feature_backends import with_redis


def test_passwords_are_never_shown() -> None:
    """Neither in errors nor in logs."""
    assert without_password("redis://user:secret@host:6379/2") == "redis://host:6379/2"
    assert without_password("redis://host:6379/2") == "redis://host:6379/2"


@pytest.mark.parametrize("url", ["http://host", "host:6379", "redis://:secret@host:port/0", ""])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """At once, as a mistake in the settings."""
    with pytest.raises(ConfigError, match=r"features\.redis_url") as refused:
        RedisLink(url, "", 1.0)
    assert "secret" not in str(refused.value)


def test_the_settings_choose_the_store() -> None:
    """Opening connects to nothing."""
    settings = Settings()
    assert isinstance(open_features(settings), SqliteFeatureStore)
    away = with_redis(settings, "rediss://127.0.0.1:1/3")
    assert isinstance(open_features(away), RedisFeatureStore)


def test_another_database_of_a_server_is_named_in_its_url() -> None:
    """The path stays, for what the query says comes first; certificates and sockets stay too."""
    assert with_database("redis://h:1/0", 15) == "redis://h:1/0?db=15"
    assert with_database("rediss://h/2?ssl_ca_certs=a.pem&db=2", 3) == (
        "rediss://h/2?ssl_ca_certs=a.pem&db=3"
    )
    for url in ("redis://h:1/0", "redis://h:1", "unix:///run/redis.sock?db=4"):
        assert RedisLink(with_database(url, 7), "", 1).database == 7
