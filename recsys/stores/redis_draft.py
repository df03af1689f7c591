"""A draft of the feature store in another database of the same Redis, swapped in by one command.

A database that holds a draft says so with a key, so that what a killed process left is found.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

from recsys.errors import ConfigError, StoreError
from recsys.stores import redis_keys as keys
from recsys.stores.feature_update import FeatureWriter
from recsys.stores.redis_feature_writer import TIMEOUT_S, RedisFeatureWriter
from recsys.stores.redis_link import Command, RedisLink

DRAFT = "fw1:draft"
"""Which process fills this database; there until it is put in place."""
_DATABASES = range(15, -1, -1)
"""A server has 16 where nobody has configured another number."""
_SCANNED = 1_000


class RedisFeatureDraft:
    """A draft in the highest database that is empty, or holds the draft of a dead process.

    Args:
        url: of the store that serves, see `RedisLink`.
        password: likewise.

    Raises:
        ConfigError: the store's database holds other keys too, or no other one is free.
        StoreError: the server is away.
    """

    def __init__(self, url: str, password: str) -> None:
        self._password = password
        self._live = RedisLink(url, password, TIMEOUT_S)
        _refuse_strangers(self._live)
        self._database = self._free_database(url)
        self._url = with_database(url, self._database)
        self._draft = RedisLink(self._url, password, TIMEOUT_S)
        self._token = uuid.uuid4().hex.encode()

    def writer(self) -> FeatureWriter:
        """A writer of the draft."""
        self.remove()
        self._draft.ask([("SET", DRAFT, self._token)])
        return RedisFeatureWriter(self._url, self._password)

    def put_in_place(self) -> None:
        """Swap both databases; every connection sees the other one from then on.

        Raises:
            StoreError: the draft is not the one that was filled; the contents of before stay.
        """
        found: list[Any] = []

        def decide(answers: list[Any]) -> list[Command] | None:
            found[:] = answers
            if answers != [self._token]:
                return None
            return [("DEL", DRAFT), ("SWAPDB", self._live.database, self._database)]

        self._draft.transact([DRAFT], [("GET", DRAFT)], decide)
        if found != [self._token]:
            raise StoreError(
                f"another process has taken database {self._database} of {self._live.url} for a"
                " draft of its own; run one replay at a time"
            )

    def remove(self) -> None:
        """Empty the draft's database, whichever contents it has by now."""
        self._draft.ask([("FLUSHDB", "ASYNC")])

    def _free_database(self, url: str) -> int:
        (info,) = self._live.ask([("INFO", "keyspace")])
        used = {int(number) for number in re.findall(rb"db(\d+):", info)}
        for number in _DATABASES:
            if number == self._live.database:
                continue
            if number not in used or self._is_draft(url, number):
                return number
        raise ConfigError(
            f"feature store {self._live.url} has no empty database beside its own, expected one to"
            " compute the features in; empty one, or allow more in redis.conf ('databases')"
        )

    def _is_draft(self, url: str, number: int) -> bool:
        link = RedisLink(with_database(url, number), self._password, TIMEOUT_S)
        try:
            return bool(link.ask([("EXISTS", DRAFT)])[0])
        finally:
            link.close()


def with_database(url: str, number: int) -> str:
    """The URL of another database of the same server."""
    address, _, query = url.partition("?")
    kept = [part for part in query.split("&") if part and not part.startswith("db=")]
    return f"{address}?{'&'.join([*kept, f'db={number}'])}"


def _refuse_strangers(link: RedisLink) -> None:
    """Refuse a database with other keys: they would be swapped away with the old features."""
    cursor: Any = 0
    prefix = keys.ALL_KEYS.rstrip("*").encode()
    while True:
        ((cursor, names),) = link.ask([("SCAN", cursor, "COUNT", _SCANNED)])
        strangers = [name for name in names if not name.startswith(prefix)]
        if strangers:
            raise ConfigError(
                f"feature store {link.url} also holds keys of others, such as {strangers[0]!r},"
                " expected a database of its own; name one in features.redis_url"
            )
        if int(cursor) == 0:
            return
