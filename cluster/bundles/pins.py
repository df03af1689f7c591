"""Which bundles an operator has pinned: who, when and why. This module is their only writer.

A table of its own in the control store and no alias: an alias names one bundle for whoever asks by
name, replicas read all of them at every change, and it has no place for a person and a reason.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from sqlalchemy import BigInteger, Column, Engine, MetaData, String, Table, Text
from sqlalchemy.schema import CreateTable

from recsys.stores.control.control_tables import is_written, make_together, open_engine, reaching

T = TypeVar("T")

pin_table = Table(
    "bundle_pins",
    MetaData(),
    Column("bundle_id", String(128), primary_key=True),
    Column("pinned_ms", BigInteger, nullable=False),
    Column("who", Text, nullable=False),
    Column("why", Text, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Pin:
    """A bundle that stays in the registry until it is unpinned."""

    bundle_id: str
    pinned_ms: int
    who: str
    why: str


class Pins:
    """The pins in the control store at an SQLAlchemy URL."""

    def __init__(self, url: str) -> None:
        self._writer = open_engine(url, writes=True)
        self._reader = open_engine(url, writes=False)

    def read(self) -> list[Pin]:
        """All of them, the oldest first.

        Raises:
            StoreError: the store is away.
        """
        query = pin_table.select().order_by(pin_table.c.pinned_ms, pin_table.c.bundle_id)

        def find() -> list[Pin]:
            if not is_written(self._reader, pin_table):
                return []
            with self._reader.begin() as connection:
                return [Pin(**row) for row in connection.execute(query).mappings()]

        return self._reaching(find)

    def add(self, pin: Pin) -> bool:
        """Pin a bundle; False if it is pinned already, which leaves the first reason.

        Raises:
            StoreError: the store is away.
        """
        found = pin_table.select().where(pin_table.c.bundle_id == pin.bundle_id)

        def insert() -> bool:
            make_together(self._writer, "control store", _create)
            with self._writer.begin() as connection:
                if connection.execute(found).first() is not None:
                    return False
                connection.execute(pin_table.insert().values(asdict(pin)))
                return True

        return self._reaching(insert)

    def remove(self, bundle_id: str) -> bool:
        """Unpin a bundle; False if it was not pinned.

        Raises:
            StoreError: the store is away.
        """

        def delete() -> bool:
            if not is_written(self._writer, pin_table):
                return False
            with self._writer.begin() as connection:
                gone = connection.execute(
                    pin_table.delete().where(pin_table.c.bundle_id == bundle_id)
                )
                return gone.rowcount > 0

        return self._reaching(delete)

    def close(self) -> None:
        """Give the connections back."""
        self._writer.dispose()
        self._reader.dispose()

    def _reaching(self, run: Callable[[], T]) -> T:
        return reaching(self._writer.url, run)


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(CreateTable(pin_table, if_not_exists=True))
