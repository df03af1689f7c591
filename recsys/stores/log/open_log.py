"""Which log the settings mean, opened for those who follow it and for the one who writes it."""

from __future__ import annotations

import glob
import logging

from recsys.errors import StoreError
from recsys.settings import Settings
from recsys.stores.log.event_log import EventLog, SqliteEventLog
from recsys.stores.log.kafka_log import KafkaEventLog
from recsys.stores.spool.spool_folder import adopt_orphans, own_spool
from recsys.stores.spool.spooling_log import SpoolingLog

_log = logging.getLogger(__name__)

_FIRST_ANSWER_S = 3.0
"""A broker that does not answer for so long is away: the writer starts without it."""


def open_log(settings: Settings) -> EventLog:
    """The log, to read from and to append to straight.

    Raises:
        ConfigError: the log has another number of partitions than the settings say.
        StoreError: it cannot be reached.
    """
    if settings.events.backend == "sqlite":
        return SqliteEventLog(settings.log_path, settings.events.n_partitions)
    log = KafkaEventLog(settings.events)
    try:
        log.check(_FIRST_ANSWER_S)
    except BaseException:
        log.close()
        raise
    return log


def open_writer_log(settings: Settings, owner: str) -> SqliteEventLog | SpoolingLog:
    """The log for `serve_app.log_writer`: it starts, whatever state file or broker are in.

    A damaged file is set aside; while the broker is away events wait in `data_dir/spool`.

    Args:
        owner: names the spool's folder; for people.

    Raises:
        ConfigError: the log has another number of partitions than the settings say.
        StoreError: the file or the spool cannot be written.
    """
    if settings.events.backend == "sqlite":
        return SqliteEventLog(settings.log_path, settings.events.n_partitions, sets_aside=True)
    log = KafkaEventLog(settings.events)
    root = settings.data_dir / "spool"
    try:
        is_away = not _answers(log)
        spool = own_spool(root, owner, settings.events.spool_bytes)
        return SpoolingLog(log, spool, lambda: adopt_orphans(spool, root), is_away=is_away)
    except BaseException:
        log.close()
        raise


def log_may_repeat(settings: Settings) -> bool:
    """Whether the log may hold one event id twice.

    A broker stores again what is sent again; a fresh file does not know the ids of the damaged one.
    """
    if settings.events.backend != "sqlite":
        return True
    path = settings.log_path
    return any(path.parent.glob(f"{glob.escape(path.name)}.corrupt-*"))


def _answers(log: KafkaEventLog) -> bool:
    try:
        log.check(_FIRST_ANSWER_S)
    except StoreError as error:
        _log.error(f"events wait in the spool: {error}")
        return False
    return True
