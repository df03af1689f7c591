"""Histories are read back as they were stored, in columns or, from older stores, in rows."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.history_columns import HistoryColumns
from recsys.stores.features.feature_history import decode_history, encode_history
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.features.feature_update import MergedUsers
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.redis_features import redis_keys
from recsys.types import HistoryEvent, UserState

ids = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
events = st.builds(HistoryEvent, ids, ids, st.integers(-(2**63), 2**64 - 1))
ROWS = (HistoryEvent("i1", "view", 5), HistoryEvent("i2", "click", 7))


@settings(max_examples=50, deadline=None)
@given(st.lists(events, max_size=12))
def test_a_history_is_read_as_written(history: list[HistoryEvent]) -> None:
    """Whatever ids, kinds and times; equal histories have equal bytes."""
    stored = encode_history(tuple(history))
    found = decode_history(stored)
    assert tuple(found) == tuple(history)
    assert encode_history(found) == stored


@pytest.mark.parametrize("n_events", [0, 1, 2, 5, 40])
def test_a_history_of_rows_is_read(n_events: int) -> None:
    """Stores of earlier releases keep their histories."""
    rows = tuple(HistoryEvent(f"i{n}", "view", n) for n in range(n_events))
    assert decode_history(msgspec.msgpack.encode(rows)) == rows
    value = msgspec.msgpack.encode((3, rows))
    assert redis_keys.decode_users(["u"], [value]) == {"u": UserState("u", rows, 3)}


def test_a_store_of_rows_is_read_and_goes_over_to_columns(tmp_path: Path) -> None:
    """One user at a time, as they change."""
    path = tmp_path / "features.sqlite"
    writer = SqliteFeatureWriter(path)
    rows = msgspec.msgpack.encode(ROWS)
    writer._connection.execute("INSERT INTO users VALUES ('u1', 2, ?)", (rows,))
    reader = SqliteFeatureStore(path)
    assert reader.read_users(["u1"]) == [UserState("u1", ROWS, 2)]
    writer.merge_users(["u1"], lambda states: MergedUsers(tuple(states.values())))
    (state,) = reader.read_users(["u1"])
    assert isinstance(state.history, HistoryColumns)
    assert state == UserState("u1", ROWS, 2)
    reader.close()
    writer.close()


@pytest.mark.parametrize(
    "columns",
    [
        (1, "i1", ("view",), b"\x00\x00", b"\x00" * 16),
        (1, "i1\x00i2", ("view",), b"\x00\x00", b"\x00" * 8),
        (1, "i1\x00i2", ("view",), b"\x00\x01", b"\x00" * 16),
        (1, "i1\x00i2", (), b"", b""),
        (2, "i1", ("view",), b"\x00", b"\x00" * 8),
    ],
)
def test_columns_that_do_not_belong_together_are_refused(columns: tuple[object, ...]) -> None:
    """Damage is found when a user is read, not when the events are asked for."""
    with pytest.raises(msgspec.DecodeError):
        decode_history(msgspec.msgpack.encode(columns))
