"""A draft of the feature store in another database of the same Redis, swapped in by one command.

A database that holds a draft says so with a key, so that what a killed process left is found; a
second key, which ends by itself, says that the process lives.
"""

from __future__ import annotations

import logging
import re
import threading
import uuid
from typing import Any

from recsys.errors import ConfigError, StoreError
from recsys.stores.features.feature_update import FeatureWriter
from recsys.stores.redis_features import redis_keys as keys
from recsys.stores.redis_features.redis_feature_writer import TIMEOUT_S, RedisFeatureWriter
from recsys.stores.redis_features.redis_link import Command, RedisLink

_log = logging.getLogger(__name__)

DRAFT = "fw1:draft"
"""Whose database this is: of a draft, or of the old values until they are deleted."""
ALIVE = "fw1:draft-alive"
"""There as long as the process of the draft lives, and `ALIVE_S` longer."""
ALIVE_S = 60
_RENEW_EVERY_S = 10.0
_DATABASES = range(15, -1, -1)
"""A server has 16 where nobody has configured another number."""
_SCANNED = 1_000


class RedisFeatureDraft:
    """A draft in the highest database that is empty, or holds the draft of a dead process.

    One at a time: a second is refused while the process of the first lives.

    Args:
        url: of the store that serves, see `RedisLink`.
        password: likewise.

    Raises:
        ConfigError: the store's database holds other keys too, or no other one is free.
        StoreError: the server is away, or another process has a draft there.
    """

    def __init__(self, url: str, password: str) -> None:
        self._password = password
        self._live = RedisLink(url, password, TIMEOUT_S)
        _refuse_strangers(self._live)
        self._database = self._free_database(url)
        self._url = with_database(url, self._database)
        self._draft = RedisLink(self._url, password, TIMEOUT_S)
        self._token = uuid.uuid4().hex.encode()
        self._stopping = threading.Event()
        self._renewal: threading.Thread | None = None

    def writer(self) -> FeatureWriter:
        """A writer of the draft, empty at first.

        Raises:
            StoreError: another process has taken the database meanwhile.
        """
        mark: list[Command] = [
            ("FLUSHDB", "ASYNC"),
            ("SET", DRAFT, self._token),
            ("SET", ALIVE, self._token, "EX", ALIVE_S),
        ]

        def decide(answers: list[Any]) -> list[Command] | None:
            token, living, n_keys = answers
            is_own = token == self._token
            is_free = living is None and (token is not None or not n_keys)
            return mark if is_own or is_free else None

        reads: list[Command] = [("GET", DRAFT), ("GET", ALIVE), ("DBSIZE",)]
        if self._draft.transact([DRAFT, ALIVE], reads, decide) is None:
            raise StoreError(_taken(self._database, self._live.url))
        self._keep_alive()
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
            return [
                ("DEL", DRAFT, ALIVE),
                ("SWAPDB", self._live.database, self._database),
                # What is there now are the old values: nobody's but to be deleted.
                ("SET", DRAFT, self._token),
                ("SET", ALIVE, self._token, "EX", ALIVE_S),
            ]

        self._draft.transact([DRAFT], [("GET", DRAFT)], decide)
        if found != [self._token]:
            raise StoreError(_taken(self._database, self._live.url))

    def remove(self) -> None:
        """Empty the draft's database, whichever contents it has by now, unless it is another's."""
        self._stopping.set()
        if self._renewal is not None:
            self._renewal.join()
            self._renewal = None

        def decide(answers: list[Any]) -> list[Command] | None:
            return [("FLUSHDB", "ASYNC")] if answers == [self._token] else None

        self._draft.transact([DRAFT], [("GET", DRAFT)], decide)

    def _keep_alive(self) -> None:
        """Say from now on that this process lives, however long it writes nothing."""
        if self._renewal is None:
            self._stopping.clear()
            self._renewal = threading.Thread(target=self._renew, name="draft-alive", daemon=True)
            self._renewal.start()

    def _renew(self) -> None:
        def decide(answers: list[Any]) -> list[Command] | None:
            own = ("SET", ALIVE, self._token, "EX", ALIVE_S)
            return [own] if answers == [self._token] else None

        while not self._stopping.wait(_RENEW_EVERY_S):
            try:
                self._draft.transact([DRAFT], [("GET", DRAFT)], decide)
            except StoreError as error:
                _log.warning(f"a draft of the features cannot say that it is written: {error}")

    def _free_database(self, url: str) -> int:
        (info,) = self._live.ask([("INFO", "keyspace")])
        used = {int(number) for number in re.findall(rb"db(\d+):", info)} - {self._live.database}
        left = {number for number in sorted(used) if self._is_left(url, number)}
        for number in _DATABASES:
            if number != self._live.database and (number not in used or number in left):
                return number
        raise ConfigError(
            f"feature store {self._live.url} has no empty database beside its own, expected one to"
            " compute the features in; empty one, or allow more in redis.conf ('databases')"
        )

    def _is_left(self, url: str, number: int) -> bool:
        """Whether a database holds the draft of a dead process; that of a living one refuses."""
        link = RedisLink(with_database(url, number), self._password, TIMEOUT_S)
        try:
            is_draft, is_alive = link.ask([("EXISTS", DRAFT), ("EXISTS", ALIVE)])
        finally:
            link.close()
        if is_draft and is_alive:
            raise StoreError(_taken(number, self._live.url))
        return bool(is_draft)


def _taken(database: int, url: str) -> str:
    return (
        f"another process has taken database {database} of {url} for a draft of its own; run one"
        f" replay at a time: wait for its end, or {ALIVE_S} s where it was killed"
    )


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
