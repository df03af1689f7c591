"""The door: who is refused before the application is called, how, and what is reported of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, MutableMapping
from typing import Any

import pytest

from recsys.errors import DeadlineExceeded, Overloaded, RequestError
from serve_app.assignment import AssignedArm
from serve_app.door import front_door
from serve_app.door.admission import Admission, Lane, Seat
from serve_app.door.concurrency_limit import LimitRules
from serve_app.door.front_door import DOOR, SEAT, lane_of, pass_door
from serve_app.door.shed_report import MOST_OUTCOMES, report_refused, shares_of
from serve_app.http.caller_deadline import within_deadline
from serve_app.http.http_exchange import Receive, Scope, Send, has_left
from serve_app.http.ingress_middleware import IngressMiddleware
from serve_app.http.recommend_requests import RecommendRequest
from serve_app.micro_batch import MicroBatcher
from serve_app.telemetry import Telemetry
from tests.asgi_client import Reply, call

SLATE = "/v1/recommend"


def admission_for(ceiling: int) -> Admission:
    """With so many places."""
    rules = LimitRules.of(1, ceiling, ceiling, deadline_ms=1_000)
    return Admission(rules, rng=random.Random(1))


class SlowApp:
    """Answers once it may; notes the seats it was handed."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.seats: list[Seat] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if SEAT in scope:
            self.seats.append(scope[SEAT])
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@pytest.fixture
def door() -> Iterator[Admission]:
    """The door of this process with two places."""
    DOOR.admission = admission_for(2)
    yield DOOR.admission
    DOOR.admission = None


async def knock_together(app: SlowApp, paths: list[str]) -> list[Reply]:
    """Ask for all of them at once through the middleware; the app answers when all have come."""
    middleware = IngressMiddleware(app, watches_disconnects=False)
    asked = [asyncio.create_task(call(middleware, "POST", path, b"body")) for path in paths]
    await asyncio.sleep(0)
    app.may_answer.set()
    return list(await asyncio.gather(*asked))


def test_who_finds_no_room_is_refused_before_the_application_is_called(door: Admission) -> None:
    """With a problem document, a time to retry and a request id; health always passes."""

    async def scenario() -> tuple[SlowApp, list[Reply]]:
        app = SlowApp()
        return app, await knock_together(app, [SLATE, SLATE, SLATE, "/healthz"])

    app, replies = asyncio.run(scenario())
    assert [reply.status for reply in replies] == [200, 200, 503, 200]
    assert len(app.seats) == 3
    refused = replies[2]
    assert refused.headers["content-type"] == "application/problem+json"
    assert int(refused.headers["retry-after"]) in (1, 2, 3)
    assert len(refused.headers["x-request-id"]) > 0
    assert refused.json()["status"] == 503
    assert (door.n_inside, door.n_open) == (0, 0)


def test_a_failing_application_gives_its_place_back(door: Admission) -> None:
    """Whatever it raises."""

    async def fails(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        raise KeyError("inside")

    for _ in range(5):
        with pytest.raises(KeyError):
            asyncio.run(call(IngressMiddleware(fails, watches_disconnects=False), "GET", SLATE))
    assert (door.n_inside, door.n_open) == (0, 0)


def test_without_a_gateway_in_the_process_everybody_passes() -> None:
    """Serve's proxies wear the same middlewares."""
    assert front_door.DOOR.admission is None

    async def scenario() -> tuple[SlowApp, list[Reply]]:
        app = SlowApp()
        return app, await knock_together(app, [SLATE] * 5)

    app, replies = asyncio.run(scenario())
    assert {reply.status for reply in replies} == {200}
    assert not app.seats


@pytest.mark.parametrize(
    ("path", "lane"),
    [
        ("/healthz", Lane.HEALTH),
        ("/readyz", Lane.HEALTH),
        ("/-/healthz", Lane.HEALTH),
        (SLATE, Lane.SLATE),
        ("/v1/events", Lane.OTHER),
        ("/v1/recommend/", Lane.OTHER),
        ("/nowhere", Lane.OTHER),
    ],
)
def test_a_lane_is_told_by_the_path(path: str, lane: Lane) -> None:
    """Nothing else is known yet."""
    assert lane_of(path) is lane


def arm_of(user_id: str) -> AssignedArm:
    """Half of the users are a canary's."""
    return AssignedArm("canary" if int(user_id) % 2 else "stable", f"b{int(user_id) % 2}", "r1", "")


def refuse(admission: Admission, n: int) -> None:
    """Fill it and refuse so many."""

    async def never(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0)
        raise AssertionError("it was let in")

    async def ignore(message: MutableMapping[str, Any]) -> None:
        await asyncio.sleep(0)

    async def scenario() -> None:
        for _ in range(n):
            await pass_door(admission, never, {"path": SLATE}, _waits, ignore, "r")

    while admission.arrive(Lane.SLATE) is not None:
        pass
    admission.take_refused()
    asyncio.run(scenario())


async def _waits() -> MutableMapping[str, Any]:
    await asyncio.Event().wait()
    raise AssertionError


def test_the_refused_are_reported_together_and_none_is_left_out() -> None:
    """As counts, and as outcomes of the arms that they would have had."""
    admission, telemetry = admission_for(1), Telemetry()
    refuse(admission, 1_001)
    ids = iter(range(10_000))
    outcomes = report_refused(admission, telemetry, arm_of, 5, lambda: str(next(ids)))
    assert len(outcomes) == MOST_OUTCOMES
    assert sum(outcome.n_requests for outcome in outcomes) == 1_001
    assert {(one.status, one.reason, one.experiment) for one in outcomes} == {(503, "shed", "r1")}
    counts = telemetry.take().counts
    assert counts["flywheel_shed", (("reason", "full"),)] == 1_001
    assert counts["flywheel_requests", (("route", SLATE), ("status", "503"))] == 1_001
    assert report_refused(admission, telemetry, arm_of, 6, lambda: "1") == []


def test_before_there_is_a_plan_the_refused_are_counted_alone() -> None:
    """There is no arm to hold them against."""
    admission, telemetry = admission_for(1), Telemetry()
    refuse(admission, 3)

    def no_plan(user_id: str) -> AssignedArm:
        raise Overloaded("no plan")

    assert report_refused(admission, telemetry, no_plan, 5, lambda: "1") == []
    assert telemetry.take().counts["flywheel_shed", (("reason", "full"),)] == 3


@pytest.mark.parametrize(("n", "parts"), [(1, [1]), (3, [1, 1, 1]), (18, [2, 2] + [1] * 14)])
def test_shares_add_up(n: int, parts: list[int]) -> None:
    """And differ by 1 at most."""
    assert shares_of(n, 16) == parts


def test_a_callers_deadline_only_shortens() -> None:
    """The time left of it, the request's own and that of the settings: the least counts."""
    plain, hurried = RecommendRequest("u"), RecommendRequest("u", deadline_ms=100)
    assert within_deadline(plain, None, 10_000, 700) is plain
    assert within_deadline(plain, b"10250", 10_000, 700).deadline_ms == 250
    assert within_deadline(plain, b"99999", 10_000, 700).deadline_ms == 700
    assert within_deadline(hurried, b"10250", 10_000, 700).deadline_ms == 100
    with pytest.raises(DeadlineExceeded, match="5 ms ago"):
        within_deadline(plain, b"9995", 10_000, 700)


@pytest.mark.parametrize("value", [b"", b"soon", b"-5", b"1e9", b"9" * 16])
def test_a_deadline_that_is_no_moment_is_refused(value: bytes) -> None:
    """The caller is told what was expected."""
    with pytest.raises(RequestError, match="milliseconds since 1970"):
        within_deadline(RecommendRequest("u"), value, 10_000, 700)


@pytest.mark.parametrize(
    ("messages", "left"),
    [
        ([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}], True),
        ([{"type": "http.disconnect"}], True),
        ([{"type": "http.request", "body": b""}], False),
        ([], False),
    ],
)
def test_whether_a_caller_left_is_known_without_waiting(
    messages: list[dict[str, Any]], left: bool
) -> None:
    """And nothing waits in its name afterwards: what comes next is everybody's."""

    async def scenario() -> tuple[bool, str]:
        incoming: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        for message in messages:
            incoming.put_nowait(message)
        found = has_left(incoming.get)
        incoming.put_nowait({"type": "next"})
        return found, (await incoming.get())["type"]

    assert asyncio.run(scenario()) == (left, "next")


def test_an_ask_whose_caller_left_takes_no_place_in_a_batch() -> None:
    """It is told why, and its neighbours are answered."""
    batches: list[list[int]] = []

    async def run(asks: Any, is_live: Any) -> list[int]:
        batches.append(list(asks))
        await asyncio.sleep(0)
        return list(asks)

    def leave(ask: int) -> Exception | None:
        return KeyError("left") if ask == 1 else None

    async def scenario() -> list[Any]:
        batcher = MicroBatcher(run, max_batch=2, max_in_flight=1, leave=leave)
        asked = (batcher.submit(n) for n in range(3))
        return list(await asyncio.gather(*asked, return_exceptions=True))

    first, second, third = asyncio.run(scenario())
    assert (first, third) == (0, 2)
    assert isinstance(second, KeyError)
    assert batches == [[0, 2]]
