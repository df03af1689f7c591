"""Names and values of the features in Redis are read back as they were written."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import StoreError
from recsys.stores.redis_features import redis_keys as keys
from recsys.types import HistoryEvent, UserState

ids = st.text(min_size=1, max_size=40).filter(lambda text: text.isprintable() or "\x00" in text)
counts = st.tuples(st.integers(0, 10**6), st.integers(0, 10**6))
events = st.builds(HistoryEvent, ids, ids, st.integers(-(2**62), 2**62))


@settings(max_examples=50, deadline=None)
@given(st.lists(counts, max_size=20))
def test_a_sum_of_packed_counts_is_the_sums_of_both(added: list[tuple[int, int]]) -> None:
    """The server adds one integer where there are two counts."""
    packed = sum(keys.packed_count(count) for count in added)
    expected = (sum(count[0] for count in added), sum(count[1] for count in added))
    assert keys.unpacked_count(str(packed).encode()) == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 999), st.integers(0, 99_999), ids)
def test_a_pair_is_read_from_its_field(partition: int, day: int, other_id: str) -> None:
    """Whatever the item's id contains."""
    field = keys.pair_field(partition, day, other_id).encode()
    assert keys.named_pair(field) == (partition, day, other_id)


@settings(max_examples=50, deadline=None)
@given(ids, st.lists(events, max_size=5), st.integers(0, 2**40))
def test_a_user_is_read_as_written(user_id: str, history: list[HistoryEvent], version: int) -> None:
    """Unknown users are left out."""
    state = UserState(user_id, tuple(history), version)
    values = [keys.encode_user(state), None]
    assert keys.decode_users([user_id, user_id + "x"], values) == {user_id: state}


@pytest.mark.parametrize("value", [b"", b"\xc1", b"\x92\x01", b"text"])
def test_a_value_that_cannot_be_read_is_a_store_error_that_names_nobody(value: bytes) -> None:
    """What is wrong and what to do, without the user's id."""
    with pytest.raises(StoreError, match="a user's history that cannot be read") as refused:
        keys.decode_users(["somebody"], [value])
    assert "somebody" not in str(refused.value)
    with pytest.raises(StoreError, match="empty the database"):
        keys.decode_part(value)
    with pytest.raises(StoreError, match="a list of items"):
        keys.decode_ranked(value)
