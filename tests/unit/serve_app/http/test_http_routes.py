"""The HTTP interface over a whole fused graph: ids, limits, readiness, deadlines and the log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest

from recsys.events import CatalogueChange, Engagement, Event, Impression, Outcome, decode_event
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from recsys.traffic import Arm, TrafficPlan
from serve_app.gateway import Graph
from tests.asgi_client import Message, Reply, call
from tests.bundles_for_tests import SALT, all_to, publish_small, put_in_force, small_settings

T = TypeVar("T")


@dataclass
class Place:
    """Where a graph of these tests lives."""

    settings: Settings
    bundle_ids: tuple[str, ...]

    def graph(self, **serve: Any) -> Graph:
        merged = {**self.settings.serve.model_dump(), **serve}
        settings = self.settings.model_copy(
            update={"serve": type(self.settings.serve).model_validate(merged)}
        )
        return Graph(settings, None, f"gateway-{time.monotonic_ns()}", adds_request_id=True)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Two published bundles, the first one stable."""
    root: Path = tmp_path_factory.mktemp("routes")
    settings = small_settings(root, placement="fused")
    ids = tuple(
        publish_small(settings, root / f"staging{seed}", seed=seed).bundle_id for seed in (1, 2)
    )
    put_in_force(settings, all_to(ids[0]))
    yield Place(settings, ids)


def using(graph: Graph, scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario on a started graph and stop it."""

    async def whole() -> T:
        await graph.start()
        try:
            return await scenario
        finally:
            graph.stop()

    return asyncio.run(whole())


def logged(settings: Settings) -> list[Event]:
    """Everything in the log."""
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    records = [
        record
        for partition in range(settings.events.n_partitions)
        for record in log.read(partition, 0, 10_000)
    ]
    log.close()
    return [decode_event(record.value) for record in records]


async def recommend(graph: Graph, user_id: str = "u1", **fields: str) -> Reply:
    """A GET of a slate; x-request-id is the user's name."""
    query = "&".join(f"{name}={value}" for name, value in {"user_id": user_id, **fields}.items())
    headers = {"x-request-id": f"r-{user_id}"}
    return await call(graph.http, "GET", "/v1/recommend", query=query, headers=headers)


def test_a_usable_request_id_is_kept_and_another_is_replaced(place: Place) -> None:
    """It names the request in the response, the body and the log."""
    graph = place.graph()

    async def scenario() -> tuple[Reply, Reply]:
        bad = {"x-request-id": "with spaces and \t tabs"}
        return (
            await recommend(graph, "u7"),
            await call(graph.http, "GET", "/v1/recommend", query="user_id=u7", headers=bad),
        )

    kept, replaced = using(graph, scenario())
    assert kept.headers["x-request-id"] == kept.json()["request_id"] == "r-u7"
    assert replaced.headers["x-request-id"] == replaced.json()["request_id"]
    assert " " not in replaced.headers["x-request-id"]


def test_slates_are_logged_as_impressions_and_events_as_engagements(place: Place) -> None:
    """What was answered is what is in the log once the gateway has stopped."""
    graph = place.graph()
    body = b'{"events": [{"event_id": "e-1", "kind": "click", "user_id": "u8", "item_id": "i3"}]}'

    async def scenario() -> tuple[Reply, list[Reply]]:
        answered = await recommend(graph, "u8", k="7")
        accepted = [await call(graph.http, "POST", "/v1/events", body) for _ in range(2)]
        return answered, accepted

    answered, accepted = using(graph, scenario())
    assert [reply.status for reply in accepted] == [202, 202]
    assert accepted[0].json() == {"accepted": 1, "event_ids": ["e-1"]}
    events = logged(place.settings)
    (impression,) = [e for e in events if isinstance(e, Impression) and e.user_id == "u8"]
    assert [item.item_id for item in impression.slate] == [
        item["item_id"] for item in answered.json()["items"]
    ]
    assert [item.propensity for item in impression.slate] == pytest.approx(
        [item["propensity"] for item in answered.json()["items"]]
    )
    assert impression.request_id == "r-u8"
    assert len([e for e in events if isinstance(e, Engagement) and e.event_id == "e-1"]) == 1


def test_one_bad_event_stores_none(place: Place) -> None:
    """All or nothing."""
    graph = place.graph()
    body = b'{"events": [{"kind": "click", "user_id": "u9", "item_id": "i1"}, {"kind": 3}]}'
    reply = using(graph, call(graph.http, "POST", "/v1/events", body))
    assert reply.status == 400
    assert any("/events/1" in str(error) for error in reply.json()["errors"])
    assert not [e for e in logged(place.settings) if getattr(e, "user_id", "") == "u9"]


def test_catalogue_changes_are_durable_when_accepted(place: Place) -> None:
    """Put and delete are events of the one log."""
    graph = place.graph()

    async def scenario() -> list[Reply]:
        put = await call(graph.http, "PUT", "/v1/items/new one", b'{"title": "New"}')
        return [put, await call(graph.http, "DELETE", "/v1/items/i5")]

    replies = using(graph, scenario())
    assert [reply.status for reply in replies] == [202, 202]
    changes = {e.item_id: e for e in logged(place.settings) if isinstance(e, CatalogueChange)}
    assert (changes["new one"].title, changes["new one"].deleted) == ("New", False)
    assert changes["i5"].deleted


def test_a_body_is_refused_as_soon_as_it_is_too_long(place: Place) -> None:
    """Announced or not, and without reading the rest."""
    graph = place.graph(max_body_bytes=100)

    async def scenario() -> list[Reply]:
        announced = {"content-length": "101"}
        return [
            await call(graph.http, "POST", "/v1/recommend", b"", headers=announced),
            await call(graph.http, "POST", "/v1/recommend", [b"x" * 60, b"x" * 60, b"never read"]),
        ]

    assert [reply.status for reply in using(graph, scenario())] == [413, 413]


def test_a_body_in_parts_is_one_body(place: Place) -> None:
    """Servers hand over bodies as they come."""
    graph = place.graph()
    parts = [b'{"user_id"', b': "u1", "k"', b": 3}"]
    reply = using(graph, call(graph.http, "POST", "/v1/recommend", parts))
    assert len(reply.json()["items"]) == 3


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/v1/items/", 405), ("PATCH", "/v1/recommend", 405)],
)
def test_wrong_paths_and_methods_are_problems(
    place: Place, method: str, path: str, status: int
) -> None:
    """405 names what is allowed."""
    graph = place.graph()
    reply = asyncio.run(call(graph.http, method, path))
    graph.stop()
    assert reply.status == status
    assert ("allow" in reply.headers) == (status == 405)


def test_a_deadline_that_passes_is_a_504_and_an_outcome_and_harms_nobody(place: Place) -> None:
    """The neighbours in its batch are answered."""
    graph = place.graph(max_batches_in_flight=1)

    async def scenario() -> list[Reply]:
        hurried = [recommend(graph, f"late{n}", deadline_ms="1") for n in range(40)]
        patient = [recommend(graph, f"patient{n}", deadline_ms="30000") for n in range(40)]
        return await asyncio.gather(*hurried, *patient)

    replies = using(graph, scenario())
    assert {reply.status for reply in replies[40:]} == {200}
    late = [reply for reply in replies[:40] if reply.status != 200]
    assert late
    assert {reply.status for reply in late} == {504}
    outcomes = [e for e in logged(place.settings) if isinstance(e, Outcome) and e.status == 504]
    assert {(e.reason, e.variant, e.bundle_id) for e in outcomes} == {
        ("deadline", "stable", place.bundle_ids[0])
    }


def test_a_caller_whose_own_deadline_passed_is_told_so(place: Place) -> None:
    """Nobody works for it; one that has time left is answered."""
    graph = place.graph()

    async def scenario() -> list[Reply]:
        now_ms = time.time_ns() // 1_000_000
        return [
            await call(
                graph.http,
                "GET",
                "/v1/recommend",
                query="user_id=u1",
                headers={"x-request-deadline": str(now_ms + left_ms)},
            )
            for left_ms in (-1, 60_000)
        ]

    late, patient = using(graph, scenario())
    assert (late.status, patient.status) == (504, 200)
    assert "x-request-deadline passed" in late.json()["detail"]


def test_a_caller_that_left_is_not_answered_and_gives_its_seat_back(place: Place) -> None:
    """It is found out before its batch is made, and counted."""
    graph = place.graph()
    sent: list[Message] = []
    incoming: asyncio.Queue[Message] = asyncio.Queue()
    for message in ({"type": "http.request", "body": b""}, {"type": "http.disconnect"}):
        incoming.put_nowait(message)

    async def send(message: Message) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/v1/recommend",
        "query_string": b"user_id=u1",
        "headers": [],
    }
    using(graph, graph.http(scope, incoming.get, send))
    assert sent == []
    assert graph.telemetry.take().counts["flywheel_left", ()] == 1
    assert (graph.http.admission.n_inside, graph.http.admission.n_open) == (0, 0)


def test_one_request_too_many_is_shed_at_once(place: Place) -> None:
    """503 with a time to retry; the others are answered."""
    graph = place.graph(max_concurrent=8)

    async def scenario() -> list[Reply]:
        return await asyncio.gather(*(recommend(graph, f"crowd{n}") for n in range(20)))

    replies = using(graph, scenario())
    shed = [reply for reply in replies if reply.status == 503]
    assert len(shed) == 12
    assert {reply.headers["retry-after"] for reply in shed} <= {"1", "2", "3"}


def test_a_caller_that_goes_away_harms_no_neighbour(place: Place) -> None:
    """Its task is cancelled by the server while its batch is under way."""
    graph = place.graph(max_batches_in_flight=1)

    async def scenario() -> list[Reply]:
        tasks = [asyncio.create_task(recommend(graph, f"w{n}")) for n in range(12)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        return await asyncio.gather(*tasks[1::2])

    assert {reply.status for reply in using(graph, scenario())} == {200}


def test_a_gateway_without_a_plan_is_alive_and_not_ready(tmp_path: Path) -> None:
    """It says what is missing."""
    graph = Graph(small_settings(tmp_path), None, "gateway-1", adds_request_id=True)

    async def scenario() -> list[Reply]:
        return [
            await call(graph.http, "GET", "/healthz"),
            await call(graph.http, "GET", "/readyz"),
            await recommend(graph),
        ]

    alive, ready, answer = using(graph, scenario())
    assert alive.status == 200
    assert (ready.status, answer.status) == (503, 503)
    assert "no traffic plan" in ready.json()["detail"]
    assert "retry-after" in ready.headers


def test_traffic_follows_the_plan_and_every_answer_is_of_one_bundle(place: Place) -> None:
    """A canary loads beside stable and takes its users, also those who get no answer."""
    stable, canary = place.bundle_ids
    graph = place.graph(max_batches_in_flight=1)

    async def until(bundle_ids: set[str]) -> set[tuple[str, str]]:
        for _ in range(500):
            replies = await asyncio.gather(*(recommend(graph, f"u{n}") for n in range(20)))
            assert {reply.status for reply in replies} == {200}
            seen = {(reply.json()["variant"], reply.json()["bundle_id"]) for reply in replies}
            if {bundle_id for _, bundle_id in seen} == bundle_ids:
                return seen
            await asyncio.sleep(0.02)
        raise AssertionError(f"the plan for {bundle_ids} never came into force: {seen}")

    async def scenario() -> list[set[tuple[str, str]]]:
        before = await until({stable})
        put_in_force(
            place.settings,
            TrafficPlan(1, SALT, (Arm("stable", stable, 0.5), Arm("canary", canary, 0.5))),
        )
        during = await until({stable, canary})
        await asyncio.gather(*(recommend(graph, f"hurried{n}", deadline_ms="1") for n in range(40)))
        put_in_force(place.settings, all_to(stable))
        return [before, during, await until({stable})]

    before, during, after = using(graph, scenario())
    assert before == after == {("stable", stable)}
    assert during == {("stable", stable), ("canary", canary)}
    hurried = [
        (e.variant, e.experiment)
        for e in logged(place.settings)
        if isinstance(e, Outcome) and e.user_id.startswith("hurried")
    ]
    assert set(hurried) == {("stable", None), ("canary", SALT)}


def test_a_planned_bundle_that_cannot_be_loaded_leaves_its_users_to_stable(place: Place) -> None:
    """A plan that names a broken bundle costs nobody an answer."""
    stable = place.bundle_ids[0]
    put_in_force(
        place.settings,
        TrafficPlan(1, SALT, (Arm("stable", stable, 0.1), Arm("canary", "no-such", 0.9))),
    )
    graph = place.graph()

    async def scenario() -> tuple[list[Reply], Reply]:
        replies = await asyncio.gather(*(recommend(graph, f"u{n}") for n in range(20)))
        return replies, await call(graph.http, "GET", "/readyz")

    replies, ready = using(graph, scenario())
    put_in_force(place.settings, all_to(stable))
    assert {reply.json()["bundle_id"] for reply in replies} == {stable}
    assert {reply.json()["variant"] for reply in replies} == {"stable"}
    assert ready.status == 503
    assert "no-such is failed" in ready.json()["detail"]
