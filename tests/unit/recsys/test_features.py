"""What the models read: histories as arrays, content as hash buckets, the schema's hash."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import FeatureSchemaMismatch
from recsys.features import (
    FIRST_KIND,
    OTHER_KIND,
    FeatureSchema,
    content_matrix,
    content_tokens,
    history_arrays,
)
from recsys.types import HistoryEvent, Item

NOW_MS = 1_700_000_000_000
SCHEMA = FeatureSchema(kinds=("click", "like"), history_length=4, n_content_buckets=97)
ROW_OF = {f"i{row}": row for row in range(10)}


def an_event(item_id: str, kind: str = "click", ago_s: float = 0.0) -> HistoryEvent:
    return HistoryEvent(item_id, kind, NOW_MS - int(ago_s * 1000))


def test_the_newest_event_stands_in_the_last_column() -> None:
    """Histories are right aligned and padded on the left."""
    history = [an_event("i3", ago_s=20.0), an_event("i5", "like", ago_s=2.5)]
    batch = history_arrays([history, []], ROW_OF, SCHEMA, [NOW_MS, NOW_MS])
    assert batch["items"].tolist() == [[-1, -1, 3, 5], [-1] * 4]
    assert batch["kinds"].tolist() == [[0, 0, FIRST_KIND, FIRST_KIND + 1], [0] * 4]
    assert batch["ages_s"].tolist() == [[0, 0, 20.0, 2.5], [0] * 4]
    assert [batch[name].dtype for name in ("items", "kinds", "ages_s")] == [
        np.int32,
        np.uint8,
        np.float64,
    ]


def test_events_of_unknown_items_leave_room_for_older_known_ones() -> None:
    """An item without a row takes no place in the history."""
    history = [an_event(f"i{row}") for row in range(5)] + [an_event("gone")] * 3
    batch = history_arrays([history], ROW_OF, SCHEMA, [NOW_MS])
    assert batch["items"].tolist() == [[1, 2, 3, 4]]


def test_a_kind_outside_the_schema_is_other_and_a_future_event_has_age_zero() -> None:
    """Neither a new kind nor a clock ahead of ours breaks a request."""
    batch = history_arrays([[an_event("i1", "share", ago_s=-60)]], ROW_OF, SCHEMA, [NOW_MS])
    assert batch["kinds"][0, -1] == OTHER_KIND
    assert batch["ages_s"][0].tolist() == [0.0] * 4


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 10**9)), max_size=9), max_size=4)
)
def test_a_batch_equals_its_requests_one_by_one(users: list[list[tuple[int, int]]]) -> None:
    """A user's arrays do not depend on the neighbours in the batch."""
    histories = [[an_event(f"i{row}", ago_s=ago / 1000) for row, ago in user] for user in users]
    together = history_arrays(histories, ROW_OF, SCHEMA, [NOW_MS] * len(users))
    assert together["items"].shape == (len(users), SCHEMA.history_length)
    for index, history in enumerate(histories):
        known = [ROW_OF[event.item_id] for event in history if event.item_id in ROW_OF][-4:]
        alone = history_arrays([history], ROW_OF, SCHEMA, [NOW_MS])
        assert alone["items"][0].tolist() == [-1] * (4 - len(known)) + known
        for name, values in alone.items():
            assert np.array_equal(together[name][index], values[0])


def test_the_hash_changes_with_every_field_and_survives_json() -> None:
    """Two bundles of one hash read the same arrays."""
    others = [
        replace(SCHEMA, kinds=("like", "click")),
        replace(SCHEMA, history_length=5),
        replace(SCHEMA, n_content_buckets=98),
        replace(SCHEMA, version=2),
    ]
    assert len({schema.hash for schema in [SCHEMA, *others]}) == 5
    assert len(SCHEMA.hash) == 16
    assert FeatureSchema.from_json(SCHEMA.to_json()) == SCHEMA


@pytest.mark.parametrize(
    "document",
    [{}, {**SCHEMA.to_json(), "history_length": "long"}, {**SCHEMA.to_json(), "kinds": None}],
)
def test_a_schema_that_cannot_be_read_says_so(document: dict[str, object]) -> None:
    """A damaged manifest is a named error, not a KeyError."""
    with pytest.raises(FeatureSchemaMismatch, match="expected kinds, history_length"):
        FeatureSchema.from_json(document)


@pytest.mark.parametrize(
    "fields",
    [
        {"kinds": ("click", "click")},
        {"kinds": tuple(str(n) for n in range(300))},
        {"history_length": 0},
    ],
)
def test_an_impossible_schema_is_refused(fields: dict[str, object]) -> None:
    """Kinds fit a byte and are distinct; lengths are positive."""
    with pytest.raises(FeatureSchemaMismatch):
        replace(SCHEMA, **fields)  # type: ignore[arg-type]


def test_content_tokens_tell_fields_apart_and_ignore_case() -> None:
    """A creator named like a category is another token; the same word twice is one."""
    buckets = 2**30
    item = Item("a", title="War war, Peace", categories=("drama",), creator="Drama")
    tokens = content_tokens(item, buckets)
    assert len(tokens) == len(set(tokens)) == 4
    assert tokens == content_tokens(replace(item, title="war PEACE"), buckets)
    assert all(0 <= token < 97 for token in content_tokens(item, 97))


def test_the_content_matrix_keeps_categories_when_titles_are_long() -> None:
    """Later tokens are cut, and those are title words."""
    long = Item("a", title=" ".join(f"word{n}" for n in range(40)), categories=("drama",))
    matrix = content_matrix([long, Item("b")], 1000, max_tokens=5)
    assert matrix.shape == (2, 5)
    assert matrix[0, 0] == content_tokens(Item("c", categories=("drama",)), 1000)[0]
    assert (matrix[0] >= 0).all()
    assert (matrix[1] == -1).all()
