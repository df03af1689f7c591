"""Takes people out of a feature store that was filled from a lake which has forgotten them since.

Part of its one writer, `stream_features`. The imported histories of a fill are stored without an
offset, so that a word in the log, read meanwhile by another stream, does not reach them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import duckdb

from recsys.events import Forgotten, decode_event
from recsys.stores.features.feature_update import FeatureWriter
from recsys.stores.log.event_log import EventLog
from train_app.following.lake_snapshot import LakeTables, find_tables
from train_app.lake.lake_errors import lake_errors

_RECORDS_PER_READ = 10_000
_USERS_PER_FETCH = 10_000
_TYPE_MARK = b'"forgotten"'


def forget_since(log: EventLog, before: LakeTables, location: str, writer: FeatureWriter) -> int:
    """Remove everybody whom log or lake say to forget and the lake, as it was, did not; how many.

    What somebody forgotten did after that may go as well.

    Args:
        before: the tables that the store was filled from.
    """
    ends = log.end_offsets()
    held = before.ends(ends)
    # The log first: a word is emptied from it only when the lake has carried it out.
    n_removed = 0
    for user_id in _named_in(log, held, ends):
        n_removed += writer.forget_user(user_id)
    for user_id in _gone_from(before, held, location):
        n_removed += writer.forget_user(user_id)
    return n_removed


def _named_in(log: EventLog, held: Mapping[int, int], ends: Mapping[int, int]) -> Iterator[str]:
    """Whom the log says to forget, behind what the lake held."""
    for partition, end in sorted(ends.items()):
        offset = held.get(partition, 0)
        while offset < end:
            records = log.read(partition, offset, _RECORDS_PER_READ)
            if not records:
                break
            offset = records[-1].offset + 1
            for record in records:
                user_id = _forgotten_user(record.value)
                if user_id is not None:
                    yield user_id


def _forgotten_user(value: bytes) -> str | None:
    if _TYPE_MARK not in value:
        return None
    try:
        event = decode_event(value)
    except (ValueError, RecursionError):
        return None
    return event.user_id if isinstance(event, Forgotten) else None


def _gone_from(before: LakeTables, held: Mapping[int, int], location: str) -> Iterator[str]:
    """Of whom the lake no longer has any of the engagements it held."""
    after = find_tables(location)
    if after is None or after.engagements.version == before.engagements.version:
        return
    with lake_errors("read", location), duckdb.connect() as connection:
        before.engagements.attach(connection, "before_engagements")
        after.engagements.attach(connection, "after_engagements")
        places = [f"(log_partition = {p} AND log_offset < {end})" for p, end in held.items()]
        # What somebody forgotten did since is no sign that they were not.
        was_held = " OR ".join(["log_partition IS NULL", *places])
        gone = connection.execute(
            f"SELECT user_id FROM before_engagements WHERE {was_held}"
            f" EXCEPT SELECT user_id FROM after_engagements WHERE {was_held}"
        )
        while rows := gone.fetchmany(_USERS_PER_FETCH):
            yield from (row[0] for row in rows)
