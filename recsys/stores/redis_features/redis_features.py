"""The online feature store in Redis as serving reads it: many users in one round trip, and never
a long wait. Reading only; the one writer is `train_app.following.features.stream_features`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recsys.errors import StoreError
from recsys.feature_definitions import (
    WINDOWS_S,
    ItemCounts,
    bucket_of,
    bucket_width_ms,
    first_bucket,
    summed_counts,
)
from recsys.stores.circuit import Circuit
from recsys.stores.features.feature_store import CatalogueView, NeighbourChanges, NeighbourMark
from recsys.stores.redis_features import redis_keys as keys
from recsys.stores.redis_features.redis_link import Command, RedisLink
from recsys.stores.redis_features.redis_update import MAX_PER_COMMAND, parts
from recsys.types import UserState

PATIENT_TIMEOUT_S = 1.0
"""For what no request waits for: lists and the catalogue, read in the background."""


class RedisFeatureStore:
    """The feature store in Redis, shared by the threads of a process.

    A server that fails some times in a row is left alone and tried again twice a second, by one
    caller; the others fail at once.

    Args:
        url: see `RedisLink`.
        password: likewise.
        timeout_s: of the reads that a request waits for.
    """

    def __init__(
        self, url: str, password: str, timeout_s: float, circuit: Circuit | None = None
    ) -> None:
        self._quick = RedisLink(url, password, timeout_s)
        self._patient = RedisLink(url, password, max(timeout_s, PATIENT_TIMEOUT_S))
        self._circuit = circuit or Circuit()
        self._gone: tuple[str, int, frozenset[str]] = ("", 0, frozenset())

    def read_users(self, user_ids: Sequence[str]) -> list[UserState]:
        """The states of many users at once, in the order asked for.

        Raises:
            StoreError: the server is away or slow.
        """
        commands: list[Command] = [
            ("MGET", *map(keys.user_key, part)) for part in parts(user_ids, MAX_PER_COMMAND)
        ]
        values = [value for answer in self._ask(self._quick, commands) for value in answer]
        found = keys.decode_users(user_ids, values)
        return [found.get(user_id) or UserState(user_id) for user_id in user_ids]

    def popular(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their scores, most popular first.

        Counts of the live window; before the first live event, counts of the imported history.
        """
        origins = [("GET", keys.popular_key(origin)) for origin in ("live", "import")]
        live, imported = map(keys.decode_ranked, self._ask(self._patient, origins))
        return (live or imported)[:limit]

    def trending(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their trend scores, above expectation only, best first."""
        (value,) = self._ask(self._patient, [("GET", keys.TRENDING)])
        return keys.decode_ranked(value)[:limit]

    def neighbours(self, item_ids: Sequence[str], limit: int) -> list[list[tuple[str, float]]]:
        """At most `limit` items that go together with each item, best first."""
        return self._ranked(self._quick, item_ids, limit)

    def changed_neighbours(
        self, since: NeighbourMark, limit: int, max_lists: int
    ) -> NeighbourChanges:
        """The neighbours of at most `max_lists` items that changed after a mark, oldest first."""
        (value,) = self._ask(self._patient, [("GET", keys.NEIGHBOURS_MARK)])
        newest = NeighbourMark(*keys.decode_mark(value))
        if newest == since:
            return NeighbourChanges(since)
        is_anew = newest.store != since.store
        newest, versions = self._versions_since(0 if is_anew else since.version, max_lists)
        if is_anew == (newest.store == since.store):  # it was emptied between the two reads
            return NeighbourChanges(since, is_all=False)
        item_ids = list(versions)
        is_all = len(item_ids) < max_lists
        last = newest.version if is_all else versions[item_ids[-1]]
        lists = dict(zip(item_ids, self._ranked(self._patient, item_ids, limit), strict=True))
        return NeighbourChanges(NeighbourMark(newest.store, last), lists, is_anew, is_all)

    def item_counts(self, item_ids: Sequence[str], now_ms: int) -> list[ItemCounts]:
        """The window counts of many items at a time, in the order asked for."""
        distinct = list(dict.fromkeys(item_ids))
        buckets = [(w, b) for w in WINDOWS_S for b in _buckets(now_ms, w)]
        (members,) = self._ask(self._quick, [("SMEMBERS", keys.PARTITIONS)])
        if not members or not distinct:
            return [ItemCounts(item_id, summed_counts((), now_ms)) for item_id in item_ids]
        reads: list[tuple[tuple[int, int], Command]] = [
            (bucket, ("HMGET", keys.bucket_key(int(member), keys.bucket_name(*bucket)), *part))
            for member in members
            for bucket in buckets
            for part in parts(distinct, MAX_PER_COMMAND)
        ]
        answers = self._ask(self._quick, [command for _, command in reads])
        found: dict[str, list[tuple[int, int, int, int]]] = {item_id: [] for item_id in distinct}
        for (bucket, command), answer in zip(reads, answers, strict=True):
            for item_id, packed in zip(command[2:], answer, strict=True):
                if packed is not None:
                    found[str(item_id)].append((*bucket, *keys.unpacked_count(packed)))
        return [ItemCounts(i, summed_counts(found[i], now_ms)) for i in item_ids]

    def catalogue(self, since_version: int = 0) -> CatalogueView:
        """Deleted items, and the items put since a version."""
        names = (keys.CATALOGUE_VERSION, keys.NEIGHBOURS_MARK)
        ((value, mark),) = self._ask(self._patient, [("MGET", *names)])
        store, version, gone = self._gone
        # A store that was swapped in may have come to the same version.
        if int(value or 0) == version == since_version and keys.decode_mark(mark)[0] == store:
            return CatalogueView(version, gone)
        store, version, gone, changed = self._catalogue_since(since_version)
        self._gone = (store, version, gone)
        commands: list[Command] = [
            ("HMGET", keys.CATALOGUE, *part) for part in parts(changed, MAX_PER_COMMAND)
        ]
        entries = [
            keys.decode_entry(entry)
            for answer in self._ask(self._patient, commands)
            for entry in answer
        ]
        # An item that changed again in between comes with the next version.
        items = tuple(
            entry.item(item_id)
            for item_id, entry in zip(changed, entries, strict=True)
            if entry.version <= version and not entry.deleted
        )
        return CatalogueView(version, gone, items)

    def offsets(self) -> dict[int, int]:
        """The log offset up to which each partition is reflected (exclusive)."""
        (members,) = self._ask(self._patient, [("SMEMBERS", keys.PARTITIONS)])
        partitions = sorted(map(int, members))
        reads: list[Command] = [("GET", keys.part_key(partition)) for partition in partitions]
        stored = map(keys.decode_part, self._ask(self._patient, reads))
        return {p: part.offset for p, part in zip(partitions, stored, strict=True) if part}

    def close(self) -> None:
        """Close the connections; the next read opens new ones."""
        self._quick.close()
        self._patient.close()

    def _ranked(
        self, link: RedisLink, item_ids: Sequence[str], limit: int
    ) -> list[list[tuple[str, float]]]:
        commands: list[Command] = [
            ("MGET", *map(keys.neighbours_key, part)) for part in parts(item_ids, MAX_PER_COMMAND)
        ]
        answers = self._ask(link, commands)
        return [keys.decode_ranked(value)[:limit] for answer in answers for value in answer]

    def _versions_since(
        self, since_version: int, limit: int
    ) -> tuple[NeighbourMark, dict[str, int]]:
        """Store and version, and the items changed since a version with theirs, in one snapshot."""
        changed = ("ZRANGEBYSCORE", keys.NEIGHBOURS_ORDER, f"({since_version}", "+inf")
        commands: list[Command] = [
            ("MULTI",),
            ("GET", keys.NEIGHBOURS_MARK),
            (*changed, "WITHSCORES", "LIMIT", 0, limit),
            ("EXEC",),
        ]
        value, flat = self._ask(self._patient, commands)[-1]
        versions = keys.fields_of(flat).items()
        mark = NeighbourMark(*keys.decode_mark(value))
        return mark, {item_id.decode(): int(float(version)) for item_id, version in versions}

    def _catalogue_since(self, since_version: int) -> tuple[str, int, frozenset[str], list[str]]:
        """Store, version, deleted items and the items changed since a version, in one snapshot."""
        commands: list[Command] = [
            ("MULTI",),
            ("GET", keys.NEIGHBOURS_MARK),
            ("GET", keys.CATALOGUE_VERSION),
            ("SMEMBERS", keys.CATALOGUE_GONE),
            ("ZRANGEBYSCORE", keys.CATALOGUE_ORDER, f"({since_version}", "+inf"),
            ("EXEC",),
        ]
        mark, version, gone, changed = self._ask(self._patient, commands)[-1]
        return (
            keys.decode_mark(mark)[0],
            int(version or 0),
            frozenset(item_id.decode() for item_id in gone),
            [item_id.decode() for item_id in changed],
        )

    def _ask(self, link: RedisLink, commands: Sequence[Command]) -> list[Any]:
        if not commands:
            return []
        if not self._circuit.lets_through():
            raise StoreError(
                f"feature store {link.url} did not answer before and is left alone for a moment;"
                " check the server"
            )
        try:
            answers = link.ask(commands)
        except StoreError:
            self._circuit.failed()
            raise
        self._circuit.succeeded()
        return answers


def _buckets(now_ms: int, window_s: int) -> range:
    last = bucket_of(now_ms, window_s)
    return range(first_bucket(now_ms, window_s), last + 1, bucket_width_ms(window_s))
