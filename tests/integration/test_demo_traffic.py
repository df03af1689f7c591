"""Simulated users over real HTTP, against a small stand-in for the service."""

from __future__ import annotations

import json
import threading
from collections import Counter, defaultdict
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.demo.demo_traffic import Manner, Traffic, Visit
from recsys.simulated.simulated_population import DAY_MS, WorldSettings
from recsys.simulated.simulation import World

pytestmark = pytest.mark.integration

LAW = WorldSettings(n_users=40, n_items=200)
NOW_MS = LAW.start_ms + 30 * DAY_MS


@dataclass
class Service:
    """What the stand-in was asked; it answers every slate with the user's best."""

    world: World
    fails_for: str = ""
    asked: Counter[str] = field(default_factory=Counter)
    events: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    per_user: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, document: dict[str, Any]) -> tuple[int, object]:
        self.asked[f"{method} {path.split('/')[2]}"] += 1
        if path == "/v1/events":
            self.events += document["events"]
            return 202, {"accepted": len(document["events"]), "event_ids": []}
        if method == "PUT":
            return 200, {}
        user = document["user_id"]
        if user == self.fails_for:
            return 503, {"title": "not ready"}
        request_id = f"{user}-{len(self.per_user[user])}"
        self.per_user[user].append(request_id)
        slate = self.world.best_slate(user, document["k"], NOW_MS)
        items = [{"item_id": item_id, "position": at} for at, item_id in enumerate(slate)]
        return 200, {"request_id": request_id, "bundle_id": "b1", "items": items}


class Server(ThreadingHTTPServer):
    """All connections of the traffic may knock at once."""

    request_queue_size = 64


@contextmanager
def serving(service: Service) -> Generator[tuple[Traffic, Service]]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            with service.lock:
                service.at_once += 1
                service.most_at_once = max(service.most_at_once, service.at_once)
            body = self.rfile.read(int(self.headers["content-length"]))
            with service.lock:
                status, document = service.answer(self.command, self.path, json.loads(body))
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
            with service.lock:
                service.at_once -= 1

        do_PUT = do_POST

        def log_message(self, *arguments: object) -> None:
            """Nothing to say."""

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield Traffic("127.0.0.1", server.server_address[1], service.world, NOW_MS), service
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visits_of(world: World, n_each: int = 2) -> list[Visit]:
    return [Visit(user, (turn,)) for turn in range(n_each) for user in world.user_ids]


def test_every_visit_is_shown_counted_and_its_events_sent_back() -> None:
    """Clicks name the request and position they belong to, and what is sent is what is counted."""
    with serving(Service(World(LAW, 1))) as (traffic, service):
        log = traffic.run(visits_of(service.world), Manner())
    assert (len(log.shown), log.n_failed) == (80, 0)
    assert log.n_events == len(service.events) > 0
    on_slates = [event for event in service.events if "request_id" in event]
    clicks = sum(event["kind"] == "click" for event in on_slates)
    assert sum(slate.n_clicks for slate in log.shown) == clicks > 0
    assert all(event["request_id"].startswith(event["user_id"]) for event in on_slates)
    assert service.asked["POST recommend"] + service.asked["POST events"] == log.n_requests


def test_a_users_visits_stay_in_order() -> None:
    """The second visit of a user is never answered before the first."""
    with serving(Service(World(LAW, 1))) as (traffic, service):
        traffic.run(visits_of(service.world, 4), Manner())
    for user, requests in service.per_user.items():
        assert requests == [f"{user}-{turn}" for turn in range(4)]


def test_measuring_keeps_the_events_and_leaves_the_world_alone() -> None:
    """Two measurements of the same service by the same people agree click by click."""
    with serving(Service(World(LAW, 1))) as (traffic, service):
        manner = Manner(sends=False, remembers=False, n_discoveries=0)
        first, second = (traffic.run(visits_of(service.world), manner) for _ in range(2))
        assert service.events == []
        sent = traffic.send(first.unsent)
    assert sorted(map(repr, first.shown)) == sorted(map(repr, second.shown))
    assert sent.n_events == len(first.unsent) == len(service.events) > 0


def test_a_refused_request_is_a_failure_by_its_status() -> None:
    """It is counted, and its neighbours go on."""
    world = World(LAW, 1)
    with serving(Service(world, fails_for=world.user_ids[3])) as (traffic, _):
        log = traffic.run(visits_of(world), Manner())
    assert log.failures == {"POST /v1/recommend: 503": 2}
    assert len(log.shown) == 78


def test_nobody_home_is_a_failure_and_no_crash() -> None:
    """A connection refused counts like any other failed request."""
    world = World(LAW, 1)
    log = Traffic("127.0.0.1", 9, world, NOW_MS).run([Visit(world.user_ids[0], (0,))], Manner())
    assert log.failures == {"POST /v1/recommend: ConnectionRefusedError": 1}


def test_background_traffic_flows_while_the_block_runs_and_stops_after() -> None:
    """The swap is made while requests are answered, and its log is whole afterwards."""
    with serving(Service(World(LAW, 1))) as (traffic, service):
        reached = threading.Event()

        def turn_of(turn: int) -> list[Visit]:
            if turn == 2:
                reached.set()
            return [Visit(user, (turn,)) for user in service.world.user_ids]

        with traffic.going_on(turn_of) as log:
            assert reached.wait(30)
        n_asked = service.asked["POST recommend"]
    assert len(log.shown) == n_asked >= 80
    assert service.asked["POST recommend"] == n_asked


def test_new_items_are_put() -> None:
    """The catalogue learns of each item by its own request."""
    with serving(Service(World(LAW, 1))) as (traffic, service):
        log = traffic.put_items(service.world.items(NOW_MS)[:5])
    assert service.asked == {"PUT items": 5}
    assert (log.n_requests, log.n_failed) == (5, 0)
