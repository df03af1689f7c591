"""A user's history as columns: what many thousand events a batch are read, changed and encoded as.

Knows no store and no bundle; how columns are kept is `recsys.stores.features.feature_history`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterator, MutableSequence, Sequence
from dataclasses import dataclass
from typing import TypeAlias, overload

from recsys.types import HistoryEvent

MAX_CODES = 256
"""Kinds that one history's codes can tell apart."""
BETWEEN_IDS = "\x00"
_ESCAPE = "\x01"
_N_NEAR = 12
"""Newest ids that are cut off for a look at what came just before; more are seldom asked for."""
Times: TypeAlias = "array[int]"
"""Signed integers of 64 bits."""


@dataclass(frozen=True, slots=True, eq=False)
class HistoryColumns(Sequence[HistoryEvent]):
    """A history, oldest event first; as a sequence its events, each made when it is asked for.

    Equal to the same events in a tuple. Equal histories have equal columns.
    """

    joined_ids: str
    """The items with `BETWEEN_IDS` between them; one text, for it is read and changed far more
    often than all of its ids are asked for."""
    kinds: Sequence[str]
    """Every kind among the events once, in the order of their text."""
    kind_codes: bytes
    """Per event, the place of its kind in `kinds`."""
    times_ms: Times
    """Per event; read it only."""

    @property
    def item_ids(self) -> list[str]:
        """Per event its item."""
        return _parted(self.joined_ids) if self.kind_codes else []

    def __len__(self) -> int:
        """Number of events."""
        return len(self.kind_codes)

    def __iter__(self) -> Iterator[HistoryEvent]:
        """The events, oldest first."""
        kinds = map(self.kinds.__getitem__, self.kind_codes)
        return map(HistoryEvent, self.item_ids, kinds, self.times_ms)

    @overload
    def __getitem__(self, place: int) -> HistoryEvent: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[HistoryEvent, ...]: ...
    def __getitem__(self, place: int | slice) -> HistoryEvent | tuple[HistoryEvent, ...]:
        """One event, or some of them as a tuple."""
        if isinstance(place, slice):
            kinds = map(self.kinds.__getitem__, self.kind_codes[place])
            return tuple(map(HistoryEvent, self.item_ids[place], kinds, self.times_ms[place]))
        kind = self.kinds[self.kind_codes[place]]
        return HistoryEvent(self.item_ids[place], kind, self.times_ms[place])

    def __eq__(self, other: object) -> bool:
        """Whether the other one has the same events."""
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def __hash__(self) -> int:
        """As the tuple of its events."""
        return hash(tuple(self))


class HistoryDraft:
    """A history that is being changed; what it was made of stays as it is."""

    __slots__ = ("_codes", "_joined_ids", "_kinds", "times_ms")

    def __init__(self, history: Sequence[HistoryEvent] = ()) -> None:
        self._joined_ids: str
        self._kinds: list[str]
        self._codes: MutableSequence[int]
        self.times_ms: Times
        if isinstance(history, HistoryColumns):
            self._joined_ids, self.times_ms = history.joined_ids, history.times_ms[:]
            self._kinds, self._codes = list(history.kinds), bytearray(history.kind_codes)
        else:
            place_of = {kind: n for n, kind in enumerate(sorted({e.kind for e in history}))}
            codes = [place_of[event.kind] for event in history]
            self._kinds = list(place_of)
            self._codes = codes if len(place_of) > MAX_CODES else bytearray(codes)
            self._joined_ids = BETWEEN_IDS.join([_escaped(event.item_id) for event in history])
            self.times_ms = array("q", [event.timestamp_ms for event in history])

    def place_of(self, timestamp_ms: int) -> int:
        """Where an event of this time belongs: behind all that are not newer."""
        times_ms = self.times_ms
        if not times_ms or timestamp_ms >= times_ms[-1]:
            return len(times_ms)
        return bisect_right(times_ms, timestamp_ms)

    def before(self, place: int) -> Iterator[HistoryEvent]:
        """The events before a place, newest first."""
        ids = self._joined_ids.rsplit(BETWEEN_IDS, _N_NEAR)
        n_joined = len(self.times_ms) - len(ids)  # so many more than one are left in the first
        for at in range(place - 1, -1, -1):
            if at <= n_joined and n_joined:
                ids, n_joined = self._joined_ids.split(BETWEEN_IDS), 0
            kind = self._kinds[self._codes[at]]
            yield HistoryEvent(_unescaped(ids[at - n_joined]), kind, self.times_ms[at])

    def insert(self, place: int, item_id: str, kind: str, timestamp_ms: int) -> None:
        """Put an event before the one at a place."""
        n_events = len(self.times_ms)
        if kind not in self._kinds:
            self._kinds.append(kind)
            if len(self._kinds) > MAX_CODES:
                self._codes = list(self._codes)
        if not n_events:
            self._joined_ids = _escaped(item_id)
        elif place == n_events:
            self._joined_ids = f"{self._joined_ids}{BETWEEN_IDS}{_escaped(item_id)}"
        else:
            ids = self._joined_ids.split(BETWEEN_IDS)
            ids.insert(place, _escaped(item_id))
            self._joined_ids = BETWEEN_IDS.join(ids)
        self._codes.insert(place, self._kinds.index(kind))
        self.times_ms.insert(place, timestamp_ms)

    def keep_newest(self, limit: int) -> None:
        """Drop the oldest events beyond so many, at least one."""
        n_dropped = len(self.times_ms) - limit
        if n_dropped > 0:
            self._joined_ids = self._joined_ids.split(BETWEEN_IDS, n_dropped)[-1]
            del self._codes[:n_dropped]
            del self.times_ms[:n_dropped]

    def history(self) -> Sequence[HistoryEvent]:
        """The history as it is now: columns, or events where there are too many kinds for codes."""
        used = [code for code in range(len(self._kinds)) if code in self._codes]
        if len(used) > MAX_CODES:
            named = map(self._kinds.__getitem__, self._codes)
            return tuple(map(HistoryEvent, _parted(self._joined_ids), named, self.times_ms))
        by_text = sorted(used, key=self._kinds.__getitem__)
        kinds = tuple([self._kinds[code] for code in by_text])
        if by_text == list(range(len(self._kinds))):
            codes = bytes(self._codes)
        elif isinstance(self._codes, bytearray):
            codes = bytes(self._codes.translate(_moved(by_text)))
        else:
            codes = bytes([by_text.index(code) for code in self._codes])
        return HistoryColumns(self._joined_ids, kinds, codes, self.times_ms[:])


def item_ids_of(history: Sequence[HistoryEvent]) -> list[str]:
    """The items of a history, oldest first, without making events of columns."""
    if isinstance(history, HistoryColumns):
        return history.item_ids
    return [event.item_id for event in history]


def times_of(history: Sequence[HistoryEvent]) -> Times:
    """The times of a history in ms, oldest first; read them only."""
    if isinstance(history, HistoryColumns):
        return history.times_ms
    return array("q", [event.timestamp_ms for event in history])


def _moved(by_text: Sequence[int]) -> bytes:
    """What each code becomes where the codes in use are put in another order."""
    moved = bytearray(MAX_CODES)
    for place, code in enumerate(by_text):
        moved[code] = place
    return bytes(moved)


def _parted(joined_ids: str) -> list[str]:
    ids = joined_ids.split(BETWEEN_IDS)
    return list(map(_unescaped, ids)) if _ESCAPE in joined_ids else ids


def _escaped(item_id: str) -> str:
    if BETWEEN_IDS not in item_id and _ESCAPE not in item_id:
        return item_id
    return item_id.replace(_ESCAPE, f"{_ESCAPE}e").replace(BETWEEN_IDS, f"{_ESCAPE}b")


def _unescaped(part: str) -> str:
    if _ESCAPE not in part:
        return part
    return part.replace(f"{_ESCAPE}b", BETWEEN_IDS).replace(f"{_ESCAPE}e", _ESCAPE)
