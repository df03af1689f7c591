"""API keys in the control store, as checksums: the table, and the reader that gateways poll.

The only writer is `cluster.keys.key_writer`.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import BigInteger, Column, Float, MetaData, String, Table, Text

from recsys.keys import ApiKey
from recsys.stores.control.control_tables import is_written, open_engine, reaching

api_keys = Table(
    "api_keys",
    MetaData(),
    Column("key_id", String(16), primary_key=True),
    Column("client", String(64), nullable=False),
    Column("scopes", Text, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_ms", BigInteger, nullable=False),
    Column("expires_ms", BigInteger),
    Column("revoked_ms", BigInteger),
    Column("rate_per_s", Float),
)


class KeyReader:
    """The keys in the control store at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, writes=False)

    def read(self) -> list[ApiKey]:
        """All of them, revoked ones included, the oldest first.

        Raises:
            StoreError: the store is away.
        """

        def find() -> list[ApiKey]:
            if not is_written(self._engine, api_keys):
                return []
            query = api_keys.select().order_by(api_keys.c.created_ms, api_keys.c.key_id)
            with self._engine.begin() as connection:
                return [key_of_row(row) for row in connection.execute(query).mappings()]

        return reaching(self._engine.url, find)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()


def key_of_row(row: Any) -> ApiKey:
    """The key of a row of the table."""
    return ApiKey(**{**row, "scopes": tuple(row["scopes"].split())})
