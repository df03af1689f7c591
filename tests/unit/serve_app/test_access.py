"""The lock on the HTTP door: who is let in where, how often, and with how much header."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import Overloaded, StoreError
from recsys.keys import SCOPES, ApiKey, NewKey, new_key
from recsys.security_settings import SecuritySettings, demands_keys
from recsys.settings import ServeSettings
from serve_app.http.openapi import openapi_document
from serve_app.http.problems import problem_headers
from serve_app.security.access import OPEN_PATHS, Access, scope_of
from serve_app.security.rate_limits import MAX_CALLERS, RateLimits
from serve_app.security.refusals import AccessRefused

NOW_MS = 1_760_000_000_000
CLOSED = (
    "/v1/recommend",
    "/v1/events",
    "/v1/items/i1",
    "/v1/anything",
    "/",
    "/docs/",
    "/v1/Events",
)


def a_key(*scopes: str, **more: Any) -> NewKey:
    """A key with these scopes."""
    return new_key(scopes, NOW_MS, random.Random("".join(scopes)).randbytes, **more)


def locked(*keys: ApiKey, clock: list[float] | None = None, **limits: Any) -> Access:
    """A lock that these keys open."""
    now = clock if clock is not None else [0.0]
    access = Access(
        SecuritySettings(**limits),
        lambda: list(keys),
        clock_ms=lambda: NOW_MS,
        monotonic=lambda: now[0],
    )
    access.refresh()
    return access


def request(path: str, *headers: tuple[str, str], query: str = "") -> dict[str, Any]:
    """The ASGI scope of a request."""
    pairs = [(name.encode(), value.encode()) for name, value in headers]
    return {"type": "http", "path": path, "query_string": query.encode(), "headers": pairs}


def status(access: Access, scope: dict[str, Any]) -> int:
    """200 if it is let in, else the status of the refusal."""
    try:
        access.check(scope)
    except AccessRefused as refused:
        return refused.status
    return 200


def bearer(made: NewKey) -> tuple[str, str]:
    """The header that shows a key."""
    return ("authorization", f"Bearer {made.token}")


@pytest.mark.parametrize("path", CLOSED)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_path_opens_for_its_scope_and_no_other(path: str, scope: str) -> None:
    """Whatever is not named needs the scope admin."""
    made = a_key(scope)
    access = locked(made.key)
    assert status(access, request(path)) == 401
    expected = 200 if scope_of(path) == scope else 403
    assert status(access, request(path, bearer(made))) == expected
    assert status(access, request(path, ("x-api-key", made.token))) == expected


def test_what_needs_no_key_is_a_list_and_the_rest_of_the_interface_needs_one() -> None:
    """A route that somebody adds is closed until it is given a scope."""
    paths = openapi_document(ServeSettings())["paths"]
    assert {path for path in paths if scope_of(path) is None} == OPEN_PATHS
    assert scope_of("/v1/items/i1") == scope_of("/v2/whatever") == "admin"
    access = locked()
    assert {status(access, request(path)) for path in OPEN_PATHS} == {200}


def test_refusals_say_what_to_do_and_repeat_nothing_that_was_shown() -> None:
    """401 and 403 challenge as RFC 6750 wants it."""
    made = a_key("read")
    access = locked(made.key)
    shown = [(), (("authorization", f"Bearer {made.token}x"),), (bearer(made),)]
    for headers in shown:
        with pytest.raises(AccessRefused) as caught:
            access.check(request("/v1/events", *headers))
        challenge = dict(problem_headers(caught.value))[b"www-authenticate"].decode()
        assert challenge.startswith('Bearer realm="flywheel"')
        assert made.token[16:40] not in f"{caught.value}{challenge}"
    assert 'scope="events"' in challenge


def test_without_a_demand_for_keys_everybody_is_let_in() -> None:
    """As on a laptop; limits of headers hold all the same."""
    access = Access(SecuritySettings())
    assert access.check(request("/v1/recommend")) is None
    assert status(access, request("/v1/items/i1")) == 200
    assert status(access, request("/", *[("a", "b")] * 65)) == 431


@pytest.mark.parametrize(
    ("host", "keys", "expected"),
    [
        ("127.0.0.1", "auto", False),
        ("127.9.9.9", "auto", False),
        ("localhost", "auto", False),
        ("::1", "auto", False),
        ("0.0.0.0", "auto", True),
        ("::", "auto", True),
        ("10.0.0.7", "auto", True),
        ("example.org", "auto", True),
        ("", "auto", True),
        ("127.0.0.1", "required", True),
        ("0.0.0.0", "off", False),
    ],
)
def test_keys_are_demanded_wherever_others_can_reach_the_service(
    host: str, keys: Any, expected: bool
) -> None:
    """Unless the settings say otherwise."""
    assert demands_keys(SecuritySettings(keys=keys), host) is expected


def test_a_revoked_key_is_refused_after_the_next_reading_and_an_absent_store_keeps_the_last() -> (
    None
):
    """Keys are read behind the requests."""
    made = a_key("read")
    answers: list[Any] = [StoreError("away"), [made.key], StoreError("away"), []]

    def read() -> list[ApiKey]:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return list(answer)

    access = Access(SecuritySettings(), read, clock_ms=lambda: NOW_MS)
    access.refresh()
    with pytest.raises(Overloaded, match="could not be read yet"):
        access.check(request("/v1/recommend", bearer(made)))
    for expected in (200, 200, 401):
        access.refresh()
        assert status(access, request("/v1/recommend", bearer(made))) == expected


def test_a_key_has_its_rate_and_the_refusal_says_when_to_come_again() -> None:
    """A key's own rate goes before that of the settings; the bucket of another is its own."""
    clock = [100.0]
    slow, other = a_key("read", rate_per_s=0.5), a_key("read", "events")
    access = locked(slow.key, other.key, clock=clock, rate_burst=3)
    ask = request("/v1/recommend", bearer(slow))
    assert [status(access, ask) for _ in range(4)] == [200, 200, 200, 429]
    with pytest.raises(AccessRefused) as caught:
        access.check(ask)
    assert problem_headers(caught.value) == [(b"retry-after", b"2")]
    assert {status(access, request("/v1/recommend", bearer(other))) for _ in range(9)} == {200}
    clock[0] += 2.0
    assert [status(access, ask) for _ in range(2)] == [200, 429]


@given(
    st.lists(st.floats(0, 3), min_size=1, max_size=60),
    st.floats(0.1, 20),
    st.integers(1, 10),
)
@settings(max_examples=50, deadline=None)
def test_no_bucket_gives_more_than_its_burst_and_its_rate(
    pauses: list[float], rate: float, burst: int
) -> None:
    """Over any stretch of time; and who waits as long as told is let in."""
    limits, now_s, n_allowed = RateLimits(burst), 0.0, 0
    for pause in pauses:
        now_s += pause
        wait_s = limits.take("a", rate, now_s)
        n_allowed += wait_s == 0
        assert n_allowed <= burst + rate * now_s + 1e-6
    if wait_s > 0:
        assert limits.take("a", rate, now_s + wait_s * (1 + 1e-9) + 1e-9) == 0


def test_buckets_of_callers_are_bounded() -> None:
    """Whoever asked longest ago is forgotten."""
    limits = RateLimits(1)
    for number in range(MAX_CALLERS + 1):
        assert limits.take(f"c{number}", 1e-9, 0.0) == 0
    assert limits.take("c0", 1e-9, 0.0) == 0
    assert limits.take(f"c{MAX_CALLERS}", 1e-9, 0.0) > 0


def test_headers_and_paths_past_their_limits_are_refused() -> None:
    """Counted over names and values; the path together with its query."""
    access = Access(SecuritySettings(max_headers=4, max_header_bytes=1024))
    assert status(access, request("/", *[("a", "b")] * 4)) == 200
    assert status(access, request("/", *[("a", "b")] * 5)) == 431
    assert status(access, request("/", ("a", "b" * 1023))) == 200
    assert status(access, request("/", ("a", "b" * 1024))) == 431
    assert status(access, request("/", query="q" * 1023)) == 200
    assert status(access, request("/", query="q" * 1024)) == 414


@given(st.binary(max_size=200), st.sampled_from([b"authorization", b"x-api-key"]))
@settings(max_examples=50, deadline=None)
def test_any_bytes_as_a_key_are_refused_and_never_an_error(value: bytes, name: bytes) -> None:
    """Also with the word Bearer before them."""
    access = locked(a_key("read").key)
    for shown in (value, b"Bearer " + value):
        scope = request("/v1/recommend") | {"headers": [(name, shown)]}
        assert status(access, scope) == 401
