"""Requests for a slate, from a body and from a query string."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import RequestError
from serve_app.http.recommend_requests import (
    RecommendRequest,
    parse_recommend_body,
    parse_recommend_query,
)


def parse(fields: object) -> RecommendRequest:
    """The request of a JSON value."""
    return parse_recommend_body(json.dumps(fields).encode())


def test_a_user_is_all_it_needs() -> None:
    """Everything else has its default."""
    assert parse({"user_id": "u1"}) == RecommendRequest("u1", k=20, explain=False, deadline_ms=None)


def test_every_field_is_taken_over() -> None:
    """From the body."""
    found = parse({
        "user_id": "ü", "k": 200, "context": {"device": "tv", "surface": ""},
        "exclude_item_ids": ["a", "b"], "explain": True, "deadline_ms": 50,
    })  # fmt: skip
    assert found == RecommendRequest(
        "ü", 200, {"device": "tv", "surface": ""}, ("a", "b"), explain=True, deadline_ms=50
    )


def test_a_query_string_says_the_same() -> None:
    """Repeated and prefixed names stand for lists and objects."""
    query = (
        b"user_id=%C3%BC%20x&k=3&explain=true&deadline_ms=70"
        b"&exclude_item_ids=a%26&exclude_item_ids=b&context.device=tv"
    )
    assert parse_recommend_query(query) == RecommendRequest(
        "ü x", 3, {"device": "tv"}, ("a&", "b"), explain=True, deadline_ms=70
    )


@pytest.mark.parametrize(
    ("fields", "status", "pointer"),
    [
        ({}, 422, "/user_id"),
        ({"user_id": ""}, 422, "/user_id"),
        ({"user_id": "u" * 257}, 422, "/user_id"),
        ({"user_id": 7}, 400, "/user_id"),
        ({"user_id": "u", "k": 0}, 422, "/k"),
        ({"user_id": "u", "k": 201}, 422, "/k"),
        ({"user_id": "u", "k": 10**30}, 422, "/k"),
        ({"user_id": "u", "k": "20"}, 400, "/k"),
        ({"user_id": "u", "k": 2.5}, 400, "/k"),
        ({"user_id": "u", "k": True}, 400, "/k"),
        ({"user_id": "u", "explain": 1}, 400, "/explain"),
        ({"user_id": "u", "deadline_ms": 0}, 422, "/deadline_ms"),
        ({"user_id": "u", "deadline_ms": 60_001}, 422, "/deadline_ms"),
        ({"user_id": "u", "exclude_item_ids": "a"}, 400, "/exclude_item_ids"),
        ({"user_id": "u", "exclude_item_ids": ["a", 1]}, 400, "/exclude_item_ids/1"),
        ({"user_id": "u", "exclude_item_ids": ["a"] * 1001}, 422, "/exclude_item_ids"),
        ({"user_id": "u", "context": []}, 400, "/context"),
        ({"user_id": "u", "context": {"a/b~": 1}}, 400, "/context/a~1b~0"),
        ({"user_id": "u", "context": {"a": "v" * 257}}, 422, "/context/a"),
        ({"user_id": "u", "context": {str(n): "" for n in range(33)}}, 422, "/context"),
        ({"user_id": "u", "K": 5}, 422, "/K"),
    ],
)
def test_a_wrong_field_is_pointed_at(fields: dict[str, object], status: int, pointer: str) -> None:
    """400 for types, 422 for values, each with its JSON pointer."""
    with pytest.raises(RequestError) as caught:
        parse(fields)
    assert caught.value.status == status
    assert [problem["pointer"] for problem in caught.value.problems] == [pointer]


def test_every_problem_is_named_and_a_wrong_type_decides_the_status() -> None:
    """One answer tells all there is to mend."""
    with pytest.raises(RequestError) as caught:
        parse({"k": 0, "explain": "yes", "deadline_ms": -1, "usr_id": "u"})
    assert caught.value.status == 400
    assert {p["pointer"] for p in caught.value.problems} == {
        "/usr_id", "/user_id", "/k", "/explain", "/deadline_ms",
    }  # fmt: skip
    assert "did you mean user_id?" in str(caught.value.problems)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        (b"", 422),
        (b"k=5", 422),
        (b"user_id=u&k=many", 400),
        (b"user_id=u&k=", 400),
        (b"user_id=u&k=-1", 422),
        (b"user_id=u&k=" + b"9" * 5000, 400),
        (b"user_id=u&k=%D9%A3", 400),
        (b"user_id=u&explain=perhaps", 400),
        (b"user_id=%FF", 400),
        (b"user_id=\xff", 400),
        (b"user_id=u&context.=1", 422),
        (b"user_id=u&context=1", 400),
        (b"user_id=u&" + b"exclude_item_ids=a&" * 2000, 400),
    ],
)
def test_a_wrong_query_is_refused(query: bytes, status: int) -> None:
    """With the same statuses as a body."""
    with pytest.raises(RequestError) as caught:
        parse_recommend_query(query)
    assert caught.value.status == status


_values = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=8),
    st.lists(st.text(max_size=4) | st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers(), max_size=3),
)  # fmt: skip
_names = st.sampled_from(
    ["user_id", "k", "context", "exclude_item_ids", "explain", "deadline_ms", "x"]
)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(_names, _values, max_size=7))
def test_any_json_gives_a_request_or_a_request_error(fields: dict[str, object]) -> None:
    """And a valid request keeps its limits."""
    try:
        found = parse(fields)
    except RequestError as error:
        assert error.status in {400, 422}
        assert str(error)
    else:
        assert 1 <= found.k <= 200
        assert 1 <= len(found.user_id.encode()) <= 256


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(_names | st.text(max_size=10), st.text(max_size=8)), max_size=6))
def test_any_query_gives_a_request_or_a_request_error(pairs: list[tuple[str, str]]) -> None:
    """Whatever is percent-encoded in it."""
    try:
        found = parse_recommend_query(urlencode(pairs).encode())
    except RequestError as error:
        assert error.status in {400, 422}
    else:
        assert found.user_id
