"""A second evidence store beside the one in use, to be filled and then put in its place.

Part of the writer, `stream_evidence`. In Postgres it is a schema of its own in the same database.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Protocol

from sqlalchemy import Connection, text
from sqlalchemy.engine import make_url

from recsys.stores.control.control_tables import sqlite_file
from recsys.stores.evidence import evidence_tables as tables
from recsys.stores.sqlite_file import COMPANIONS

SCHEMA = "evidence_rebuild"


class EvidenceDraft(Protocol):
    """An empty evidence store, until it is put in place or removed."""

    url: str
    """Where the draft is, for a writer."""

    def begin(self) -> None:
        """Make room for the draft; what a killed process left is gone then."""

    def put_in_place(self) -> None:
        """Give the store in use the draft's contents in one transaction."""

    def remove(self) -> None:
        """Leave nothing of the draft behind."""


class FileEvidenceDraft:
    """A draft beside an SQLite file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.rebuild")
        self.url = f"sqlite:///{self._draft}"

    def begin(self) -> None:
        """Delete what a killed process left."""
        self.remove()

    def put_in_place(self) -> None:
        """Copy page by page; readers keep the file open and see the new contents."""
        with (
            closing(sqlite3.connect(self._draft)) as source,
            closing(sqlite3.connect(self._path)) as target,
        ):
            # Not by renaming: the write-ahead log of the old file would be taken for the new one's.
            source.backup(target)

    def remove(self) -> None:
        """Delete the draft's files."""
        for end in ("", *COMPANIONS):
            self._draft.with_name(self._draft.name + end).unlink(missing_ok=True)


class SchemaEvidenceDraft:
    """A draft in a schema of the same Postgres database; the user needs to be allowed to make it.

    Args:
        url: of the store in use.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        given = parsed.query.get("options", "")
        options = f"{given if isinstance(given, str) else ' '.join(given)} -csearch_path={SCHEMA}"
        there = parsed.update_query_dict({"options": options.strip()})
        self.url = there.render_as_string(hide_password=False)
        self._live_url = url

    def begin(self) -> None:
        """Make the schema anew."""

        def make(connection: Connection) -> None:
            connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
            connection.execute(text(f"CREATE SCHEMA {SCHEMA}"))

        self._carry_out(make)

    def put_in_place(self) -> None:
        """Replace all rows; writers wait for it, readers see the old rows until the end."""

        def replace(connection: Connection) -> None:
            # Whoever writes holds a row of this table first.
            others = [table for table in tables.ALL if table is not tables.parts]
            for table in (tables.parts, *others):
                connection.execute(table.delete())
            for table in (*others, tables.parts):
                names = ", ".join(f'"{column.name}"' for column in table.columns)
                source = f"{SCHEMA}.{table.name}"
                connection.execute(
                    text(f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {source}")
                )

        self._carry_out(replace)

    def remove(self) -> None:
        """Drop the schema."""
        self._carry_out(
            lambda connection: connection.execute(text(f"DROP SCHEMA IF EXISTS {SCHEMA} CASCADE"))
        )

    def _carry_out(self, act: Callable[[Connection], object]) -> None:
        engine = tables.open_evidence(self._live_url, writes=True)
        try:
            with tables.evidence_errors(engine), engine.begin() as connection:
                act(connection)
        finally:
            engine.dispose()


def open_evidence_draft(url: str) -> EvidenceDraft:
    """A draft of the evidence store at a URL.

    Raises:
        ConfigError: the URL is not one of SQLite or Postgres.
    """
    engine = tables.open_evidence(url, writes=False)
    path = sqlite_file(engine)
    engine.dispose()
    return SchemaEvidenceDraft(url) if path is None else FileEvidenceDraft(path)
