"""Forgets a person: says so in the log, and carries it out now in everything made from the log.

Behind the word in the log features and evidence are told directly, because a store that is filled
anew never meets the word; then every follower is brought past it, the archiver for the lake.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from recsys.errors import DataError, StoreError
from recsys.events import MAX_ID_BYTES, Forgotten, new_event_id
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from recsys.stores.evidence.evidence import forget_in_evidence
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.log.event_log import EventLog, SqliteEventLog
from recsys.stores.log.open_log import open_log
from recsys.stores.spool import leftover_files
from recsys.stores.write_ahead import empty_write_ahead
from recsys.user_hash import user_hash
from train_app.command_outcome import Outcome
from train_app.following.worker_replica import open_follower
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.lake.upkeep.lake_forgetting import FORGETTABLE, Forgetting

_log = logging.getLogger(__name__)

GIVE_UP_AFTER_S = 600.0
"""A follower that is not past the word in the log by then is far behind."""
PAUSE_S = 0.05
_SCRATCH = {
    "examples": "example sets under {path}",
    "training": "working files of trainings under {path}",
    "evaluations": "working files of evaluations under {path}",
}
"""Directories of `data_dir` that may name the person, and what to call them."""


@dataclass
class ForgetReport:
    """What was done, and what is still to come."""

    user: str
    """The person's hash."""
    partition: int
    offset: int
    """Where the log says it."""
    n_log_records: int = 0
    """Records of the log that were emptied, not counting the word itself."""
    had_features: bool = False
    """Whether there was a live history."""
    evidence_rows: dict[str, int] = field(default_factory=dict)
    """Rows removed from the evidence, by table."""
    lake_rows: dict[str, int] = field(default_factory=dict)
    """Rows removed from the newest version of the lake, by table that there is."""
    removed: list[str] = field(default_factory=list)
    """Files that were removed, because they may have named the person."""
    passed: list[str] = field(default_factory=list)
    """The followers that have carried it out."""
    remaining: list[str] = field(default_factory=list)
    """What is not gone yet, and when it will be."""

    @property
    def was_known(self) -> bool:
        """Whether anything was there to forget."""
        rows = sum(self.lake_rows.values()) + sum(self.evidence_rows.values())
        return self.had_features or self.n_log_records + rows > 0

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON document."""
        return {**asdict(self), "was_known": self.was_known}

    def text(self) -> str:
        """The report for a person."""
        said = f"{self.user}, in the log at {self.partition}/{self.offset}"
        lines = [
            f"forgotten: {said}"
            if self.was_known
            else "nothing was known of this user; check the id, unless it was forgotten before"
            f" ({said})",
            f"log: {self.n_log_records} records emptied",
            f"features: {'a history removed' if self.had_features else 'no history'}",
            f"evidence: {_rows_removed(self.evidence_rows)}",
            f"lake: {_rows_removed(self.lake_rows)}",
            f"carried out by: {', '.join(self.passed)}",
        ]
        lines += [f"removed: {sentence}" for sentence in self.removed]
        lines += [f"still to come: {sentence}" for sentence in self.remaining]
        return "\n".join(lines)


def forget_user(settings: Settings, *, user_id: str) -> Outcome:
    """`forget`: remove a person from log, lake, features and evidence."""
    report = forget(settings, user_id)
    return Outcome(report.as_dict(), report.text())


def forget(
    settings: Settings,
    user_id: str,
    now_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    new_id: Callable[[], str] = new_event_id,
) -> ForgetReport:
    """Forget everything the log says of a person up to now.

    Works beside running workers and without them. Doing it again does it again: a run that died
    half-way is completed by the next.

    Raises:
        DataError: no user can have this id.
        StoreError: a store is away; run it again once it is back.
    """
    if not 1 <= len(user_id.encode("utf-8", "surrogatepass")) <= MAX_ID_BYTES:
        raise DataError(f"a user id has 1 to {MAX_ID_BYTES} bytes of UTF-8, expected one")
    with closing(open_log(settings)) as log:
        had_history, lake_rows = _known_before(settings, user_id)
        word = Forgotten(event_id=new_id(), user_id=user_id, timestamp_ms=now_ms())
        (position,) = log.append([word])
        report = ForgetReport(user_hash(user_id), position.partition, position.offset)
        report.lake_rows = lake_rows
        report.n_log_records += _void(log, user_id, position.partition, position.offset)
        # Now and directly: a store that is filled from the lake next time never meets the word.
        with closing(open_feature_writer(settings)) as features:
            report.had_features = features.forget_user(user_id) or had_history
        report.evidence_rows = forget_in_evidence(settings.evidence_url, user_id)
        for worker in (FEATURES, EVIDENCE, ARCHIVER):
            _bring_past(worker, log, settings, position.partition, position.offset)
            report.passed.append(worker)
        # Until here the word had to stay: a follower may have read the person's records before
        # they were emptied, and would have stored them after.
        n_emptied = _void(log, user_id, position.partition, position.offset + 1)
        report.n_log_records += max(0, n_emptied - 1)
    _remove_scratch(settings, report)
    # A run that was killed may have removed the rows: older versions hold them all the same.
    had_lake_rows = report.was_known and bool(report.lake_rows)
    report.remaining += _still_to_come(settings, now_ms(), had_lake_rows)
    report.remaining += _fold_back(settings)
    _log.info("forgot %s at %d/%d", report.user, report.partition, report.offset)
    return report


def _known_before(settings: Settings, user_id: str) -> tuple[bool, dict[str, int]]:
    """Whether there is a live history, and rows of the lake by table; changes nothing.

    Running workers may remove them before us once the word is in the log. A store that is away is
    told of behind the word, when it is to forget.
    """
    had_history, lake_rows = False, dict[str, int]()
    with suppress(StoreError), closing(open_features(settings)) as store:
        (state,) = store.read_users([user_id])
        had_history = bool(state.history)
    with suppress(StoreError):
        lake = Lake(settings.lake_location)
        tables = [table for name in FORGETTABLE if (table := lake.find(name)) is not None]
        lake_rows = {table.name: _rows_of(table, user_id) for table in tables}
    return had_history, lake_rows


def _rows_of(table: LakeTable, user_id: str) -> int:
    with duckdb.connect() as connection, lake_errors("read", table.location):
        table.attach(connection, "rows")
        query = f"SELECT count(*) FROM rows WHERE {Forgetting(user_id).condition(table.name)}"
        return int(connection.execute(query).fetchall()[0][0])


def _void(log: EventLog, user_id: str, partition: int, before_offset: int) -> int:
    return (
        log.void_user(user_id, {partition: before_offset}) if isinstance(log, SqliteEventLog) else 0
    )


def _bring_past(
    worker: str, log: EventLog, settings: Settings, partition: int, offset: int
) -> None:
    """Let one follower carry out the word at an offset; beside others of it, whoever is first."""
    give_up_at_s = time.monotonic() + GIVE_UP_AFTER_S
    with closing(open_follower(worker, log, settings)) as follower:
        while _position(follower, log, partition) <= offset:
            if time.monotonic() > give_up_at_s:
                raise StoreError(
                    f"the {worker} follower is not past offset {offset} of partition {partition}"
                    f" after {GIVE_UP_AFTER_S:.0f} s, expected it to catch up; what it has not"
                    " forgotten yet it will when it gets there, run this again then"
                )
            if not _turn(follower, partition):
                time.sleep(PAUSE_S)


def _turn(follower: Any, partition: int) -> int:
    """One turn; the archiver would wait for more records before it commits, were it not told."""
    bring_in = getattr(follower, "bring_in", follower.run_once)
    return int(bring_in({partition}))


def _position(follower: Any, log: EventLog, partition: int) -> int:
    """At least so far the follower is in the partition."""
    end = log.end_offsets()[partition]
    return end - int(follower.lag({partition}))


def _remove_scratch(settings: Settings, report: ForgetReport) -> None:
    """Example sets, and working files of trainings that ended half-way: all can be made again."""
    from train_app.run_directory import one_at_a_time

    try:
        with one_at_a_time(settings.data_dir / "train.lock", "a training"):
            for name, what in _SCRATCH.items():
                path = settings.data_dir / name
                had_files = path.is_dir() and any(path.iterdir())
                shutil.rmtree(path, ignore_errors=True)
                if path.exists():
                    report.remaining.append(f"{path} cannot be removed; remove it")
                elif had_files:
                    said = what.format(path=path)
                    report.removed.append(f"{said} were removed; make them again")
    except DataError:
        report.remaining.append(
            "a training that runs now has read the person; its files go when it ends, example sets"
            f" under {settings.data_dir / 'examples'} when this is run again after it"
        )


def _rows_removed(by_table: Mapping[str, int]) -> str:
    """How many, and from which tables."""
    named = ", ".join(f"{name} {n:,}" for name, n in by_table.items() if n)
    return f"{sum(by_table.values()):,} rows removed" + (f" ({named})" if named else "")


def _fold_back(settings: Settings) -> list[str]:
    names = ("events.sqlite", "features.sqlite", "evidence.sqlite")
    paths = [settings.data_dir / name for name in names]
    return [
        f"{path}-wal is held by a reader and may name the person; it is overwritten as it is used"
        for path in paths
        if not empty_write_ahead(path)
    ]


def _still_to_come(settings: Settings, now_ms: int, had_lake_rows: bool) -> list[str]:
    said = []
    if leftover_files.size_of(leftover_files.spool_files(settings.data_dir)):
        said.append(
            "events wait in the spool and may name the person: they come to the log as new ones;"
            " run this again when the spool is empty"
        )
    aside = [
        *leftover_files.set_aside_files(settings.data_dir),
        *leftover_files.replaceable_files(settings.data_dir),
    ]
    said += [f"{path} was set aside and may name the person; remove it" for path in aside]
    if had_lake_rows:
        day = datetime.fromtimestamp(now_ms / 1000 + settings.lake.retention_days * 86_400, UTC)
        said.append(
            "older versions of the lake hold the person until their files are deleted, after"
            f" {day:%Y-%m-%d %H:%M} UTC; versions that a bundle names, when that bundle is removed"
        )
    if settings.features.backend == "redis":
        said.append(
            "redis may keep what it was told in its append-only file until that is rewritten"
            " (BGREWRITEAOF)"
        )
    if settings.events.backend == "kafka":
        said.append(_retention_sentence(settings, now_ms))
    return said


def _retention_sentence(settings: Settings, now_ms: int) -> str:
    from recsys.stores.log.topic_retention import longest_kept_ms

    topic = settings.events.kafka.topic
    kept_ms = longest_kept_ms(settings.events)
    if kept_ms is None:
        return f"topic {topic} keeps records for ever; give it a retention.ms"
    day = datetime.fromtimestamp((now_ms + kept_ms) / 1000, UTC)
    return f"the records leave topic {topic} at the latest on {day:%Y-%m-%d %H:%M} UTC"
