"""How `cluster` opens the control store to write: one transaction per change, errors as sentences.

Knows connections and their errors; what is written is the writers'.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, OperationalError, SQLAlchemyError

from recsys.errors import RolloutConflict, StoreError
from recsys.stores.control import control_tables as tables

SERIALIZATION_FAILURES = {"40001", "40P01"}
"""SQLSTATE of a transaction that lost against a concurrent one."""
T = TypeVar("T")
_LOST_RACE = (
    "somebody else changed the control store at the same moment; "
    "look with 'cluster canary status' or 'cluster shadow status' and try again"
)


class ControlTransactions:
    """Transactions on the control store at an SQLAlchemy URL; made at the first write."""

    def __init__(self, url: str) -> None:
        self._engine = tables.open_engine(url, writes=True)
        self._is_created = False

    def read(self, read: Callable[[Connection], T], empty: T) -> T:
        """What `read` answers, or `empty` of a store that was never written.

        Raises:
            StoreError: the store cannot be read.
        """
        try:
            if not tables.has_tables(self._engine):
                return empty
            # A store of an earlier release lacks the newer tables.
            self._create()
            with self._engine.begin() as connection:
                return read(connection)
        except SQLAlchemyError as error:
            self._is_created = False
            raise _away(self._engine.url, error) from error

    @contextmanager
    def change(self) -> Generator[Connection]:
        """A transaction: all of it, or nothing.

        Raises:
            RolloutConflict: somebody else was faster.
            StoreError: the store cannot be written.
        """
        try:
            self._create()
            with self._engine.begin() as connection:
                yield connection
        except IntegrityError as error:
            raise RolloutConflict(_LOST_RACE) from error
        except OperationalError as error:
            if getattr(error.orig, "sqlstate", None) in SERIALIZATION_FAILURES:
                raise RolloutConflict(_LOST_RACE) from error
            self._is_created = False
            raise _away(self._engine.url, error) from error
        except SQLAlchemyError as error:
            self._is_created = False
            raise _away(self._engine.url, error) from error

    def close(self) -> None:
        """Give the store back."""
        self._engine.dispose()

    def _create(self) -> None:
        if not self._is_created:
            tables.create_tables(self._engine)
            self._is_created = True


def _away(url: object, error: SQLAlchemyError) -> StoreError:
    return StoreError(
        f"control store {url} cannot be written: {getattr(error, 'orig', None) or error}; "
        "check its disk and permissions, or that its server runs"
    )
