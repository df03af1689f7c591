"""Makes the embedded evidence anew from the whole log, beside the old one, and swaps it in.

Part of its one writer, `stream_evidence`. The salt stays, so that people keep their hashes.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import update

from recsys.errors import ConfigError
from recsys.settings import Settings
from recsys.stores import evidence_tables as tables
from recsys.stores.control_tables import sqlite_file
from recsys.stores.event_log import EventLog
from recsys.stores.sqlite_file import COMPANIONS
from train_app.following.stream_evidence import EvidenceStream


@dataclass(frozen=True, slots=True)
class RebuiltEvidence:
    """What the evidence was made of."""

    n_taken: int
    offsets: dict[int, int]
    """By partition: the log offset it now stands at, or later."""


def rebuild_evidence(log: EventLog, settings: Settings) -> RebuiltEvidence:
    """Count the whole log into a new store and give the old one its contents in one step.

    Raises:
        ConfigError: the evidence is kept by a server.
        StoreError: log or disk failed; the old contents stay.
    """
    path = _file_of(settings)
    draft = path.with_name(f"{path.name}.rebuild")
    url = f"sqlite:///{draft}"
    try:
        _remove(draft)
        _begin(url, _salt_of(settings.evidence_url))
        with closing(EvidenceStream(log, url, settings)) as stream:
            ends, n_taken = log.end_offsets(), 0
            while stream.lag(list(ends)):
                n_taken += stream.run_once(list(ends))
        with closing(sqlite3.connect(draft)) as source, closing(sqlite3.connect(path)) as target:
            # Not by renaming: the write-ahead log of the old file would be taken for the new one's.
            source.backup(target)
    finally:
        _remove(draft)
    return RebuiltEvidence(n_taken, ends)


def _file_of(settings: Settings) -> Path:
    engine = tables.open_evidence(settings.evidence_url, writes=False)
    path = sqlite_file(engine)
    engine.dispose()
    if path is None:
        raise ConfigError(
            f"the evidence is kept by {engine.url.host}, expected an SQLite file for a replay;"
            " empty its tables instead, and the evidence stream counts the log anew"
        )
    return path


def _salt_of(url: str) -> bytes:
    engine = tables.open_evidence(url, writes=True)
    try:
        with tables.evidence_errors(engine):
            tables.create_evidence(engine)
            with engine.begin() as connection:
                return tables.read_salt(connection)
    finally:
        engine.dispose()


def _begin(url: str, salt: bytes) -> None:
    engine = tables.open_evidence(url, writes=True)
    try:
        with tables.evidence_errors(engine):
            tables.create_evidence(engine)
            with engine.begin() as connection:
                named = tables.meta.c.name == "salt"
                connection.execute(update(tables.meta).where(named).values(value=salt.hex()))
    finally:
        engine.dispose()


def _remove(path: Path) -> None:
    for end in ("", *COMPANIONS):
        path.with_name(path.name + end).unlink(missing_ok=True)
