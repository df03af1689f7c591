"""Writes API keys into the control store. This module is their only writer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import TypeVar

from sqlalchemy import Engine
from sqlalchemy.schema import CreateTable

from recsys.errors import ConfigError
from recsys.keys import MAX_LIVE_KEYS, ApiKey
from recsys.stores.control.control_tables import is_written, make_together, open_engine, reaching
from recsys.stores.control.key_tables import api_keys, key_of_row

T = TypeVar("T")


class KeyWriter:
    """The keys in the control store at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, writes=True)

    def add(self, key: ApiKey, now_ms: int) -> None:
        """Keep a new key.

        Raises:
            ConfigError: its client has as many live keys as it may have.
            StoreError: the store is away.
        """
        of_client = api_keys.select().where(api_keys.c.client == key.client)
        row = {**asdict(key), "scopes": " ".join(key.scopes)}

        def insert() -> None:
            make_together(self._engine, "control store", _create)
            with self._engine.begin() as connection:
                others = [key_of_row(found) for found in connection.execute(of_client).mappings()]
                live = [other.key_id for other in others if other.is_live(now_ms)]
                if len(live) >= MAX_LIVE_KEYS:
                    raise ConfigError(
                        f"client {key.client} has {len(live)} live keys ({', '.join(live)}), "
                        f"expected fewer than {MAX_LIVE_KEYS}; revoke the old one with "
                        f"'cluster keys revoke {live[0]}'"
                    )
                connection.execute(api_keys.insert().values(row))

        self._reaching(insert)

    def revoke(self, key_id: str, now_ms: int) -> ApiKey:
        """End a key; ending it again changes nothing.

        Raises:
            ConfigError: there is none of that id.
            StoreError: the store is away.
        """
        of_id = api_keys.c.key_id == key_id

        def update() -> ApiKey:
            found = None
            if is_written(self._engine, api_keys):
                with self._engine.begin() as connection:
                    found = connection.execute(api_keys.select().where(of_id)).mappings().first()
                    if found is not None and found["revoked_ms"] is None:
                        values = {"revoked_ms": now_ms}
                        connection.execute(api_keys.update().where(of_id).values(values))
            if found is None:
                # Cut, because somebody may give the whole key where its id is meant.
                raise ConfigError(
                    f"key {key_id[:15]!r} is not in the control store, expected the id of a key; "
                    "see 'cluster keys list'"
                )
            key = key_of_row(found)
            return key if key.revoked_ms is not None else replace(key, revoked_ms=now_ms)

        return self._reaching(update)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _reaching(self, run: Callable[[], T]) -> T:
        return reaching(self._engine.url, run)


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(api_keys, if_not_exists=True))
