"""What is read of a record for evidence: the part that is counted, as the whole event says it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.events import (
    CatalogueChange,
    DroppedItem,
    Event,
    Forgotten,
    Impression,
    ShownItem,
    UnshownItem,
    encode_event,
)
from recsys.stores.log.event_log import LogRecord
from tests.evidence_by_hand import START_MS, an_act, an_outcome
from train_app.following.evidence.evidence_records import (
    CountedImpression,
    DecodedEvidence,
    decode_evidence,
)

names = st.text(max_size=8)
fractions = st.floats(0, 1, allow_nan=False)
contexts = st.dictionaries(names, names, max_size=3)


def decoded(*values: bytes) -> DecodedEvidence:
    """The records of these values; ids are hashed to their length."""
    return decode_evidence([LogRecord(0, n, "", value) for n, value in enumerate(values)], len)


def an_impression(
    items: list[str], history: list[str], context: dict[str, str], coverage: float
) -> Impression:
    """An impression with all that the gateway logs beside the slate."""
    return Impression(
        event_id="i", request_id="r", user_id="u1", timestamp_ms=START_MS, bundle_id="b1",
        variant="canary",
        slate=tuple(
            ShownItem(item_id=item, position=n, score=0.5, propensity=0.1, source="index",
                      retrieval_score=0.2, retrieval_rank=n)
            for n, item in enumerate(items)
        ),
        unshown=(UnshownItem(item_id="x", score=0.1, score_rank=9, source="index",
                             retrieval_score=0.1, retrieval_rank=9),),
        dropped=(DroppedItem(item_id="y", source="index", retrieval_score=0.1,
                             retrieval_rank=99),),
        n_dropped=70, history_version=4, history_items=tuple(history), context=context,
        coverage=coverage, degraded=("score: late",), stage_ms={"score": 3.5}, experiment="e1",
    )  # fmt: skip


@settings(deadline=None, max_examples=50)
@given(st.lists(names, max_size=4), st.lists(names, max_size=4), contexts, fractions)
def test_what_is_counted_of_an_impression_is_what_the_whole_event_says(
    items: list[str], history: list[str], context: dict[str, str], coverage: float
) -> None:
    """Field by field, whatever stands beside it."""
    event = an_impression(items, history, context, coverage)
    [record] = decoded(encode_event(event)).records
    read = record.event
    assert isinstance(read, CountedImpression)
    assert [item.item_id for item in read.slate] == items
    for name in set(CountedImpression.__struct_fields__) - {"slate"}:
        assert getattr(read, name) == getattr(event, name)


def test_what_an_impression_leaves_out_is_read_as_the_whole_event_reads_it() -> None:
    """Names on the wire, types and defaults are those of the event."""
    whole = {field.name: field for field in msgspec.structs.fields(Impression)}
    for field in msgspec.structs.fields(CountedImpression):
        event = whole[field.name]
        assert field.encode_name == event.encode_name
        assert field.required == event.required
        assert field.default == event.default
        if field.name != "slate":
            assert field.type == event.type


def test_other_events_are_read_whole_and_the_catalogue_is_left_out() -> None:
    """In any order of their fields; what is no event is set aside with its reason."""
    events: list[Event] = [
        an_act("e", "u1", START_MS, "a", value=2.5),
        an_outcome("o", "u2", START_MS, 503, "shed"),
        Forgotten(event_id="f", user_id="u1", timestamp_ms=START_MS),
    ]
    change = CatalogueChange(event_id="c", item_id="a", timestamp_ms=START_MS)
    turned = msgspec.json.encode(dict(reversed(msgspec.json.decode(encode_event(change)).items())))
    found = decoded(*map(encode_event, events), encode_event(change), turned, b'{"type":"noise"}')
    assert [record.event for record in found.records] == events
    [(record, reason)] = found.bad
    assert record.value == b'{"type":"noise"}'
    assert "noise" in reason


@pytest.mark.parametrize("missing", ["event_id", "request_id", "user_id", "timestamp", "slate"])
def test_an_impression_without_what_is_counted_is_no_event(missing: str) -> None:
    """It is set aside, and stops nobody."""
    fields = msgspec.json.decode(encode_event(an_impression(["a"], [], {}, 1.0)))
    del fields[missing]
    found = decoded(msgspec.json.encode(fields))
    assert not found.records
    assert missing in found.bad[0][1]
