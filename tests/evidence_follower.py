"""Follows logs into an evidence store, in this process or one of its own, and reads it back."""

from __future__ import annotations

from collections.abc import Iterable

from recsys.events import Event, encode_event, event_key
from recsys.settings import Settings
from recsys.stores.evidence.evidence_tables import SUM_TABLES, hashed, open_evidence, read_salt
from recsys.stores.log.event_log import EventLog, LogRecord, partition_of
from tests.evidence_by_hand import LATENESS_MS, a_random_log
from tests.fakes_event_log import MemoryEventLog
from train_app.following.evidence.stream_evidence import EvidenceStream

SEED = 11
N_EVENTS = 600
N_USERS = 8
N_PARTITIONS = 4
PARTITIONS = range(N_PARTITIONS)
SETTINGS = Settings.model_validate(
    {
        "attribution": {"window_s": 6 * 3600, "session_gap_s": 1800},
        "features": {"lateness_s": LATENESS_MS // 1000},
        "events": {"negative_kinds": ["dismiss"]},
    }
)


def a_log(events: Iterable[Event]) -> MemoryEventLog:
    """A log that holds doubles too, as Kafka's may."""
    log = MemoryEventLog(N_PARTITIONS)
    for event in events:
        partition = partition_of(event_key(event), N_PARTITIONS)
        log.append_raw(partition, event.event_id, encode_event(event))
    return log


class TrimmedLog:
    """A log whose oldest records are gone."""

    def __init__(self, log: MemoryEventLog, first: int) -> None:
        self._kept = log
        self._first = first
        self.append = log.append
        self.end_offsets = log.end_offsets
        self.close = log.close

    def read(self, partition: int, offset: int, limit: int) -> list[LogRecord]:
        """From the first kept record on."""
        return self._kept.read(partition, max(offset, self._first), limit)

    def begin_offsets(self) -> dict[int, int]:
        """The first kept record of every partition."""
        return dict.fromkeys(range(N_PARTITIONS), self._first)


def follow(log: EventLog, url: str, batch: int = 1000) -> EvidenceStream:
    """A stream that has taken in everything."""
    stream = EvidenceStream(log, url, SETTINGS, max_records=batch)
    while stream.lag(PARTITIONS):
        stream.run_once(PARTITIONS)
    return stream


def stored(url: str, n_users: int = 20) -> dict[str, dict[tuple[object, ...], dict[str, int]]]:
    """The sums in the store by their keys without the partition, and the sums that are not 0."""
    engine = open_evidence(url, writes=False)
    tables: dict[str, dict[tuple[object, ...], dict[str, int]]] = {}
    with engine.begin() as connection:
        salt = read_salt(connection)
        names = {hashed(salt, f"u{n}"): f"u{n}" for n in range(n_users)}
        for name, (table, sums) in SUM_TABLES.items():
            keys = [column.name for column in table.primary_key if column.name != "partition"]
            rows = tables[name] = {}
            for row in connection.execute(table.select()).mappings():
                key = tuple(
                    names[row[column]] if column == "user_hash" else row[column] for column in keys
                )
                into = rows.setdefault(key, {})
                for column in sums:
                    into[column] = into.get(column, 0) + row[column]
    engine.dispose()
    return {
        name: {key: {c: n for c, n in row.items() if n} for key, row in rows.items()}
        for name, rows in tables.items()
    }


def follow_in_turns(url: str) -> None:
    """Take in the log in small turns; says when the first is stored."""
    log = a_log(a_random_log(SEED, N_EVENTS, N_USERS))
    stream = EvidenceStream(log, url, SETTINGS, max_records=40)
    while stream.lag(range(N_PARTITIONS)):
        stream.run_once(range(N_PARTITIONS))
        print("turned", flush=True)
    stream.close()
