"""Which bundles a composition is being made of just now: nobody may remove them meanwhile.

This module is the only writer of these rows, in a table of its own in the control store.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table
from sqlalchemy.schema import CreateTable

from cluster.rollouts.storing.control_transactions import SERIALIZATION_FAILURES
from recsys.errors import StoreError
from recsys.stores.control.control_tables import is_written, make_together, open_engine, reaching

LEASE_MS = 3_600_000
"""Longer than any composition takes; what a killed one leaves is good for no longer."""

_ATTEMPTS = 3

_leases = Table(
    "bundle_leases",
    MetaData(),
    Column("bundle_id", String(128), primary_key=True),
    Column("owner", String(256), primary_key=True),
    Column("expires_ms", BigInteger, nullable=False),
)


class PartLeases:
    """The leases in the control store at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self._engine = open_engine(url, writes=True)

    def read(self, now_ms: int) -> dict[str, str]:
        """Bundle id to who makes something of it now.

        Raises:
            StoreError: the store is away.
        """
        query = _leases.select().where(_leases.c.expires_ms > now_ms)

        def find() -> dict[str, str]:
            if not is_written(self._engine, _leases):
                return {}
            with self._engine.begin() as connection:
                rows = connection.execute(query).mappings()
                return {str(row["bundle_id"]): str(row["owner"]) for row in rows}

        return reaching(self._engine.url, find)

    @contextmanager
    def held(
        self, bundle_ids: Sequence[str], owner: str, clock: Callable[[], int]
    ) -> Generator[None]:
        """Keep these bundles while the block runs.

        Args:
            owner: unlike any other process's.
            clock: Unix time in milliseconds.

        Raises:
            StoreError: the store is away, so nothing can be kept.
        """
        names = tuple(dict.fromkeys(bundle_ids))
        self._take(names, owner, clock())
        try:
            yield
        finally:
            # What was made stands, and a lease that is left runs out by itself.
            with suppress(StoreError):
                self._give_back(owner)

    def close(self) -> None:
        """Give the connections back."""
        self._engine.dispose()

    def _take(self, bundle_ids: Sequence[str], owner: str, now_ms: int) -> None:
        rows = [
            {"bundle_id": name, "owner": owner, "expires_ms": now_ms + LEASE_MS}
            for name in bundle_ids
        ]

        def insert() -> None:
            make_together(self._engine, "control store", _create)
            with self._engine.begin() as connection:
                outdated = _leases.c.expires_ms <= now_ms
                connection.execute(_leases.delete().where(outdated | (_leases.c.owner == owner)))
                connection.execute(_leases.insert(), rows)

        self._again_if_lost(insert)

    def _give_back(self, owner: str) -> None:
        def delete() -> None:
            with self._engine.begin() as connection:
                connection.execute(_leases.delete().where(_leases.c.owner == owner))

        self._again_if_lost(delete)

    def _again_if_lost(self, change: Callable[[], None]) -> None:
        """Change; a transaction that lost against a concurrent one is repeated."""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                reaching(self._engine.url, change)
            except StoreError as error:
                state = getattr(getattr(error.__cause__, "orig", None), "sqlstate", None)
                if attempt == _ATTEMPTS or state not in SERIALIZATION_FAILURES:
                    raise
            else:
                return


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(_leases, if_not_exists=True))
