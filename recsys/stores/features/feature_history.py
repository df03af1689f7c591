"""How a user's history is stored, whatever stores it: as columns, in MessagePack.

Histories written as rows, by releases before this form or because columns cannot hold them, are
read too: the first element of columns is a number, that of rows is an event.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from typing import Literal, TypeAlias

import msgspec

from recsys.history_columns import BETWEEN_IDS, HistoryColumns, HistoryDraft, Times
from recsys.types import HistoryEvent

_TIME_BYTES = 8
_CODES = bytes(range(256))


class ColumnsForm(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The columns of a history as they are stored."""

    form: Literal[1]
    joined_ids: str
    """See `HistoryColumns`."""
    kinds: tuple[str, ...]
    """Each once, in the order of their text."""
    kind_codes: bytes
    """Per event, the place of its kind in `kinds`."""
    times: bytes
    """Per event, ms as 8 bytes, the lowest first."""

    def columns(self) -> HistoryColumns:
        """The history.

        Raises:
            msgspec.ValidationError: the columns do not belong together.
        """
        n_events = len(self.kind_codes)
        if (
            self.joined_ids.count(BETWEEN_IDS) != max(0, n_events - 1)
            or len(self.times) != n_events * _TIME_BYTES
            or self.kind_codes.translate(None, _CODES[: len(self.kinds)])
        ):
            raise msgspec.ValidationError("its columns do not belong together")
        times = array("q")
        times.frombytes(self.times)
        return HistoryColumns(self.joined_ids, self.kinds, self.kind_codes, _little_endian(times))


RowsForm: TypeAlias = tuple[HistoryEvent, ...]
_encoder = msgspec.msgpack.Encoder()
_columns_decoder = msgspec.msgpack.Decoder(ColumnsForm)
_rows_decoder = msgspec.msgpack.Decoder(RowsForm)


def stored_form(history: Sequence[HistoryEvent]) -> ColumnsForm | RowsForm:
    """What is encoded of a history."""
    if not isinstance(history, HistoryColumns):
        try:
            history = HistoryDraft(history).history()
        except OverflowError:
            return tuple(history)
    if not isinstance(history, HistoryColumns):
        return tuple(history)
    times = _little_endian(history.times_ms).tobytes()
    return ColumnsForm(1, history.joined_ids, tuple(history.kinds), history.kind_codes, times)


def encode_history(history: Sequence[HistoryEvent]) -> bytes:
    """A history as its column holds it."""
    return _encoder.encode(stored_form(history))


def decode_history(stored: bytes) -> Sequence[HistoryEvent]:
    """The history in a column.

    Raises:
        msgspec.DecodeError: it is damaged.
    """
    try:
        columns = _columns_decoder.decode(stored)
    except msgspec.ValidationError:
        return _rows_decoder.decode(stored)
    return columns.columns()


def _little_endian(times: Times) -> Times:
    if sys.byteorder == "little":
        return times
    swapped = times[:]
    swapped.byteswap()
    return swapped
