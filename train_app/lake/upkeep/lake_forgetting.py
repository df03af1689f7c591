"""Takes a person's rows out of the lake, and notes in `skipped` which offsets they had.

The rows are gone from the newest version at once. Their files are deleted by `lake_retention`, once
the retention has passed and no bundle names an older version.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import sha256
from re import escape

from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import CommitProperties

from train_app.lake.archiving.archive_batch import USER_TABLES, user_mentions
from train_app.lake.event_columns import Rows, Skip, as_table
from train_app.lake.lake_append import KEEP_LOGS, MAX_ATTEMPTS, NOTE_KEY, is_conflict
from train_app.lake.lake_errors import lake_errors
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.lake.upkeep.bounded_reading import bounded_connection

FORGETTABLE = (*USER_TABLES, "users", "quarantine")
_FIELD_BEGIN, _FIELD_END = r'(^|[,;|\t"=]|::)\s*', r'\s*($|[,;|\t"]|::)'
"""What is around a field in the text of a refused row, whatever the file's format."""


@dataclass(frozen=True, slots=True)
class Forgetting:
    """Whose rows go: those from files, and those from the log up to where the request stands."""

    user_id: str
    partition: int | None = None
    """None: of every partition, whatever the offset."""
    before_offset: int = 0

    def condition(self, table: str) -> str:
        """The rows of a table that go, as SQL for DuckDB."""
        owned = f"user_id = {_quoted(self.user_id)}"
        if table != "quarantine":
            return self._up_to_here(owned)
        mentions = [_quoted(mention) for mention in user_mentions(self.user_id)]
        # Rows of files that do not say whose they are: the id stands as a field of its own.
        field = _quoted(_FIELD_BEGIN + escape(self.user_id) + _FIELD_END)
        in_file = f"user_id IS NULL AND log_partition IS NULL AND regexp_matches(raw, {field})"
        named = (f"strpos(raw, {mention}) > 0" for mention in mentions)
        return self._up_to_here(" OR ".join([owned, *named, f"({in_file})"]))

    def commit_condition(self, table: str, raws: Collection[str]) -> str:
        """The same as SQL for Delta, whose commit repeats it: it must not name the person.

        Args:
            raws: of the quarantine, the texts that go.
        """
        column, texts = ("raw", raws) if table == "quarantine" else ("user_id", [self.user_id])
        digests = ", ".join(f"'{sha256(text.encode()).hexdigest()}'" for text in sorted(texts))
        return self._up_to_here(f"encode(sha256({column}), 'hex') IN ({digests})")

    def _up_to_here(self, owned: str) -> str:
        if self.partition is None:
            return f"({owned})"
        place = f"log_partition = {self.partition} AND log_offset < {self.before_offset}"
        return f"(({owned}) AND (log_partition IS NULL OR ({place})))"


def forget_in_lake(
    lake: Lake,
    user_id: str,
    *,
    now_ms: int,
    partition: int | None = None,
    before_offset: int = 0,
) -> dict[str, int]:
    """Delete every row of a user, from the log or from files; rows deleted, by table.

    Once it returns, running it again deletes nothing. What the log still holds of the user is not
    brought back as long as the log says `Forgotten` behind it, or was emptied of it.

    Args:
        partition: where given, rows from the log go only if they are of this partition and
            stand below `before_offset`: the place of the request.

    Raises:
        StoreError: a table could not be read or written; running it again completes it.
    """
    return delete_rows(lake, [Forgetting(user_id, partition, before_offset)], now_ms)


def delete_rows(lake: Lake, forgettings: Sequence[Forgetting], now_ms: int) -> dict[str, int]:
    """Delete the rows of all these forgettings; rows deleted, by table."""
    counts = dict.fromkeys(FORGETTABLE, 0)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        try:
            _delete_found(lake, forgettings, now_ms, counts)
        except CommitFailedError as error:
            # Somebody changed a table meanwhile: what is to go, and to be noted, is looked up anew.
            with lake_errors("delete rows from", lake.location):
                if not is_conflict(error) or attempt == MAX_ATTEMPTS:
                    raise
        else:
            break
    return counts


def _delete_found(
    lake: Lake, forgettings: Sequence[Forgetting], now_ms: int, counts: dict[str, int]
) -> None:
    found: list[tuple[LakeTable, str, int]] = []
    places: set[tuple[int, int]] = set()
    for name in FORGETTABLE:
        table = lake.find(name)
        if table is None:
            continue
        doomed = _doomed(table, forgettings)
        if doomed:
            raws = {raw for _, _, raw in doomed}
            condition = " OR ".join(f.commit_condition(name, raws) for f in forgettings)
            found.append((table, condition, len(doomed)))
            places |= {(p, o) for p, o, _ in doomed if p is not None and o is not None}
    # The notes first: a run that dies between leaves rows that are noted, and running it again
    # completes it; the other way round would leave offsets that nothing accounts for.
    _note(lake, places, now_ms)
    for table, condition, n_rows in found:
        _delete(table, condition)
        counts[table.name] += n_rows


def _doomed(
    table: LakeTable, forgettings: Sequence[Forgetting]
) -> list[tuple[int | None, int | None, str]]:
    """Partition, offset and, in the quarantine, text of the rows that go."""
    condition = " OR ".join(forgetting.condition(table.name) for forgetting in forgettings)
    text = "raw" if table.name == "quarantine" else "''"
    with lake_errors("read", table.location), bounded_connection() as connection:
        table.attach(connection, "rows")
        query = f"SELECT log_partition, log_offset, {text} FROM rows WHERE {condition}"
        return connection.execute(query).fetchall()


def _note(lake: Lake, places: set[tuple[int, int]], now_ms: int) -> None:
    if not places:
        return
    table = lake.open("skipped")
    offsets = [offset for _, offset in places]
    with lake_errors("read", table.location), bounded_connection() as connection:
        table.attach(connection, "rows")
        noted = connection.execute(
            "SELECT log_partition, log_offset FROM rows WHERE reason = 'forgotten'"
            f" AND log_offset BETWEEN {min(offsets)} AND {max(offsets)}"
        ).fetchall()
    rows = Rows()
    for partition, offset in sorted(places - set(noted)):
        rows.add(Skip(None, "forgotten", offset + 1, now_ms), partition, offset)
    if len(rows):
        with lake.append(table) as append:
            append.write(as_table("skipped", rows))
            append.commit({}, {"by": "forgetting"})


def _delete(table: LakeTable, condition: str) -> None:
    """Delete at the version that was looked through.

    Raises:
        CommitFailedError: the table has changed in a way that the deletion would miss.
    """
    note = CommitProperties(custom_metadata={NOTE_KEY: '{"by": "forgetting"}'})
    try:
        table.delta.delete(condition, commit_properties=note, post_commithook_properties=KEEP_LOGS)
    except CommitFailedError:
        raise
    except (DeltaError, OSError):
        with lake_errors("delete rows from", table.location):
            raise


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
