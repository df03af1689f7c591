"""Makes the evidence anew from the whole log, beside the old one, and swaps it in.

Part of its one writer, `stream_evidence`. The salt stays, so that people keep their hashes.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from sqlalchemy import update

from recsys.settings import Settings
from recsys.stores.evidence import evidence_tables as tables
from recsys.stores.evidence.evidence_layout import create_evidence
from recsys.stores.log.event_log import EventLog
from train_app.following.evidence.evidence_draft import open_evidence_draft
from train_app.following.evidence.stream_evidence import EvidenceStream


@dataclass(frozen=True, slots=True)
class RebuiltEvidence:
    """What the evidence was made of."""

    n_taken: int
    offsets: dict[int, int]
    """By partition: the log offset it now stands at, or later."""


def rebuild_evidence(log: EventLog, settings: Settings) -> RebuiltEvidence:
    """Count the whole log into a new store and give the old one its contents in one step.

    Raises:
        StoreError: log or disk failed; the old contents stay.
    """
    draft = open_evidence_draft(settings.evidence_url)
    try:
        draft.begin()
        _begin(draft.url, _salt_of(settings.evidence_url))
        with closing(EvidenceStream(log, draft.url, settings)) as stream:
            ends, n_taken = log.end_offsets(), 0
            while stream.lag(list(ends)):
                n_taken += stream.run_once(list(ends))
        draft.put_in_place()
    finally:
        draft.remove()
    return RebuiltEvidence(n_taken, ends)


def _salt_of(url: str) -> bytes:
    engine = tables.open_evidence(url, writes=True)
    try:
        with tables.evidence_errors(engine):
            create_evidence(engine)
            with engine.begin() as connection:
                return tables.read_salt(connection)
    finally:
        engine.dispose()


def _begin(url: str, salt: bytes) -> None:
    engine = tables.open_evidence(url, writes=True)
    try:
        with tables.evidence_errors(engine):
            create_evidence(engine)
            with engine.begin() as connection:
                named = tables.meta.c.name == "salt"
                connection.execute(update(tables.meta).where(named).values(value=salt.hex()))
    finally:
        engine.dispose()
