"""Bodies of `/v1/events` and `/v1/items`: what is taken, and how every problem is named."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import RequestError
from recsys.events import CatalogueChange, Engagement, encode_event
from serve_app.http.event_requests import parse_events, parse_item, parse_item_delete

NOW_MS = 1_790_000_000_000
GOOD: dict[str, object] = {"kind": "click", "user_id": "u1", "item_id": "i1"}


def parse(*events: object) -> list[Engagement]:
    """The engagements of these JSON values."""
    ids = (f"new{n}" for n in itertools.count())
    return parse_events(json.dumps({"events": events}).encode(), NOW_MS, lambda: next(ids))


def problems_of(*events: object) -> list[dict[str, object]]:
    """What is wrong with these JSON values."""
    with pytest.raises(RequestError) as caught:
        parse(*events)
    assert caught.value.status == 400
    return caught.value.problems


def detail_of(**fields: object) -> str:
    """The one thing wrong with a good event that has these fields."""
    (problem,) = problems_of({**GOOD, **fields})
    assert problem["index"] == 0
    return str(problem["detail"])


def test_the_least_an_event_needs() -> None:
    """Id and time are filled in, everything else is absent."""
    (event,) = parse(GOOD)
    assert event == Engagement(
        event_id="new0",
        kind="click",
        user_id="u1",
        item_id="i1",
        timestamp_ms=NOW_MS,
        received_at_ms=NOW_MS,
        origin="api",
    )


def test_every_field_is_taken_over() -> None:
    """What the client says is what is logged."""
    (event,) = parse({
        **GOOD, "event_id": "mine", "timestamp": NOW_MS - 5, "request_id": "r", "position": 3,
        "value": 4,
    })  # fmt: skip
    assert (event.event_id, event.timestamp_ms, event.request_id) == ("mine", NOW_MS - 5, "r")
    assert (event.position, event.value) == (3, 4.0)


def test_null_is_absent() -> None:
    """Clients that write every field write null."""
    absent = dict.fromkeys(["event_id", "timestamp", "request_id", "position", "value"])
    assert parse({**GOOD, **absent}) == parse(GOOD)


@pytest.mark.parametrize(
    ("written", "expected_ms"),
    [
        ("2026-01-01", 1_767_225_600_000),
        ("2026-01-01T00:00:00", 1_767_225_600_000),
        ("2026-01-01 00:00:00.25Z", 1_767_225_600_250),
        ("2026-01-01T02:00:00+02:00", 1_767_225_600_000),
        (631_152_000_000, 631_152_000_000),
        (NOW_MS + 3_600_000, NOW_MS + 3_600_000),
    ],
)
def test_times_are_iso_8601_or_milliseconds(written: object, expected_ms: int) -> None:
    """Without a zone it is UTC."""
    assert parse({**GOOD, "timestamp": written})[0].timestamp_ms == expected_ms


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("user_id", "", "empty"),
        ("user_id", 42, "42, expected a string"),
        ("user_id", "ü" * 129, "258 bytes of UTF-8, expected at most 256"),
        ("item_id", None, "missing"),
        ("kind", "k" * 65, "expected at most 64"),
        ("timestamp", "yesterday", "expected ISO 8601"),
        ("timestamp", 1.5, "expected ISO 8601"),
        ("timestamp", True, "expected ISO 8601"),
        ("timestamp", "1989-12-31", "expected 1990-01-01T00:00:00Z"),
        ("timestamp", NOW_MS + 3_600_001, "expected 1990"),
        ("timestamp", NOW_MS // 1000, "looks like seconds"),
        ("timestamp", 10**60, "a number of 200 bits"),
        ("timestamp", "0001-01-01T00:00:00+23:59", "expected 1990"),
        ("position", -1, "expected 0 to"),
        ("position", 2**31, "expected 0 to"),
        ("position", 1.0, "expected a whole number"),
        ("position", False, "expected a whole number"),
        ("value", "5", "expected a number"),
        ("value", 10**400, "expected a finite number"),
        ("userid", "u1", "unknown field; did you mean user_id?"),
        ("zzz", 1, "unknown field; known: "),
    ],
)
def test_a_wrong_field_is_told_with_what_was_expected(field: str, value: object, says: str) -> None:
    """Value, expectation and mend are in the detail."""
    assert says in detail_of(**{field: value})


def test_every_problem_of_every_event_is_named() -> None:
    """With the index of its event; the good ones are not stored either."""
    found = problems_of(GOOD, {"kind": 1, "item_id": ""}, GOOD, "no object", {**GOOD, "value": []})
    assert [(p["index"], p["pointer"]) for p in found] == [
        (1, "/events/1/kind"),
        (1, "/events/1/user_id"),
        (1, "/events/1/item_id"),
        (3, "/events/3"),
        (4, "/events/4/value"),
    ]


def test_one_to_a_thousand_events() -> None:
    """Fewer and more are refused."""
    assert len(parse(*[GOOD] * 1000)) == 1000
    assert "1001 events, expected 1 to 1000" in str(problems_of(*[GOOD] * 1001))
    assert "0 events" in str(problems_of())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"7",
        b'{"events": {}}',
        b"{}",
        b'{"event": []}',
        b'{"events": [], "more": 1}',
        b"\xff\xfe",
        b'{"events": "\xff"}',
        b"[" * 200_000,
        b'{"events": [{"value": NaN}]}',
        b'{"events": [{"value": Infinity}]}',
        b'{"events": [{"value": 1e999}]}',
        b'{"events": [{"user_id": "\\ud800"}]}',
    ],
)
def test_a_body_that_is_no_list_of_events_is_malformed(body: bytes) -> None:
    """Status 400 and a sentence, whatever the bytes."""
    with pytest.raises(RequestError) as caught:
        parse_events(body, NOW_MS, lambda: "id")
    assert caught.value.status == 400
    assert str(caught.value)


_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=8),
    st.just("2026-01-01"),
)
_json = _scalars | st.lists(_scalars, max_size=2) | st.dictionaries(st.text(max_size=4), _scalars)
_names = st.sampled_from([*GOOD, "event_id", "timestamp", "request_id", "position", "value", "x"])
_ids = st.text(min_size=1, max_size=64)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.dictionaries(_names, _json | _ids, max_size=9) | _json, max_size=2))
def test_any_json_gives_events_or_a_request_error(events: list[object]) -> None:
    """Nothing else comes out, and what comes out can be logged."""
    try:
        found = parse(*events)
    except RequestError as error:
        assert error.status == 400
        json.dumps(error.problems)
    else:
        assert len(found) == len(events)
        for event in found:
            encode_event(event)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=60))
def test_any_bytes_give_a_request_error(body: bytes) -> None:
    """No short random body is a list of events."""
    with pytest.raises(RequestError):
        parse_events(body, NOW_MS, lambda: "id")


def item(fields: object, item_id: str = "i1") -> CatalogueChange:
    """The change that puts this JSON value."""
    return parse_item(item_id, json.dumps(fields).encode(), NOW_MS, lambda: "new")


def test_an_item_is_put_with_all_its_fields() -> None:
    """Works of the time before 1970 have a negative time."""
    found = item(
        {"title": "Ü", "categories": ["a", "b"], "creator": "c", "created_at": "1950-01-01"}
    )
    assert (found.event_id, found.item_id, found.timestamp_ms) == ("new", "i1", NOW_MS)
    assert (found.title, found.categories, found.creator) == ("Ü", ("a", "b"), "c")
    assert found.created_ms == -631_152_000_000
    assert not found.deleted


def test_an_item_needs_no_fields() -> None:
    """An empty object and no body at all put a bare item."""
    assert item({}) == parse_item("i1", b"", NOW_MS, lambda: "new")
    assert item({}).created_ms is None


@pytest.mark.parametrize(
    ("fields", "status", "pointer"),
    [
        ([], 400, None),
        ({"title": 1}, 400, "/title"),
        ({"title": "t" * 1025}, 422, "/title"),
        ({"categories": "a"}, 400, "/categories"),
        ({"categories": ["a", 2]}, 400, "/categories/1"),
        ({"categories": ["a"] * 33}, 422, "/categories"),
        ({"categories": [""]}, 422, "/categories/0"),
        ({"created_at": "9999-01-01"}, 422, "/created_at"),
        ({"genre": "a"}, 422, "/genre"),
    ],
)
def test_a_wrong_item_is_refused(fields: object, status: int, pointer: str | None) -> None:
    """400 for types, 422 for values."""
    with pytest.raises(RequestError) as caught:
        item(fields)
    assert caught.value.status == status
    assert [problem["pointer"] for problem in caught.value.problems] == (
        [pointer] if pointer else []
    )


@pytest.mark.parametrize("item_id", ["", "i" * 257, "half \ud800"])
def test_an_item_id_out_of_its_limits_is_refused(item_id: str) -> None:
    """In the path as everywhere."""
    with pytest.raises(RequestError):
        item({}, item_id)
    with pytest.raises(RequestError):
        parse_item_delete(item_id, NOW_MS, lambda: "new")


def test_an_item_is_deleted_by_its_id() -> None:
    """Nothing but the id is needed."""
    change = parse_item_delete("i1", NOW_MS, lambda: "new")
    assert change == CatalogueChange(
        event_id="new", item_id="i1", timestamp_ms=NOW_MS, deleted=True
    )


@settings(deadline=None, max_examples=50)
@given(
    st.dictionaries(
        st.sampled_from(["title", "categories", "creator", "created_at"]), _json, max_size=4
    )
)
def test_any_item_gives_a_change_or_a_request_error(fields: dict[str, object]) -> None:
    """Nothing else comes out, and what comes out can be logged."""
    try:
        encode_event(item(fields))
    except RequestError as error:
        assert error.status in {400, 422}
