"""The HTTP interface with its lock on: refusals as problems, nothing stored, no names in logs."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from pathlib import Path
from typing import Any

import pytest

from cluster.keys.key_writer import KeyWriter
from recsys.keys import SCOPES, new_key
from recsys.security_settings import SecuritySettings
from recsys.settings import Settings
from recsys.stores.features.feature_update import FeatureUpdate
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import SqliteEventLog
from recsys.types import HistoryEvent, UserState
from recsys.user_hash import user_hash
from serve_app.gateway import Graph
from tests.asgi_client import Reply, call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

NOW_MS = time.time_ns() // 1_000_000
PERSON = "somebody@example.org"
SLATE = f'{{"user_id": "{PERSON}", "k": 3}}'.encode()
EVENTS = f'{{"events": [{{"kind": "click", "user_id": "{PERSON}", "item_id": "i1"}}]}}'.encode()
REQUESTS = {
    "read": ("POST", "/v1/recommend", SLATE),
    "events": ("POST", "/v1/events", EVENTS),
    "admin": ("PUT", "/v1/items/i9", b"{}"),
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A published bundle in force, and settings that demand keys."""
    root: Path = tmp_path_factory.mktemp("locked")
    settings = small_settings(root, placement="fused")
    put_in_force(settings, all_to(publish_small(settings, root / "staging", seed=1).bundle_id))
    return settings.model_copy(update={"security": SecuritySettings(keys="required")})


def key_for(settings: Settings, *scopes: str, **more: Any) -> dict[str, str]:
    """The header that shows a new key."""
    made = new_key(scopes, NOW_MS, random.Random(str((scopes, more))).randbytes, **more)
    writer = KeyWriter(settings.control_url)
    writer.add(made.key, NOW_MS)
    writer.close()
    return {"authorization": f"Bearer {made.token}"}


def using(settings: Settings, scenario: Any) -> Any:
    """Run a scenario on a started graph and stop it."""

    async def whole() -> Any:
        graph = Graph(settings, None, f"gateway-{time.monotonic_ns()}", adds_request_id=True)
        await graph.start()
        try:
            return await scenario(graph)
        finally:
            graph.stop()

    return asyncio.run(whole())


def n_logged(settings: Settings) -> int:
    """Records in the log."""
    log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
    parts = [log.read(part, 0, 1_000) for part in range(settings.events.n_partitions)]
    log.close()
    return sum(len(part) for part in parts)


def test_each_scope_opens_its_route_and_a_refusal_stores_and_tells_nothing(
    place: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Refusals are problems with a challenge; probes and the interface stay open."""
    keys = {scope: key_for(place, scope) for scope in SCOPES}
    before = n_logged(place)

    async def ask(graph: Graph, scope: str, headers: dict[str, str] | None) -> Reply:
        method, path, body = REQUESTS[scope]
        return await call(graph.http, method, path, body, headers=headers)

    async def refused(graph: Graph) -> list[Reply]:
        shown = [None, {"authorization": "Basic dTpw"}, {"x-api-key": "fw_0123456789ab_"}]
        replies = [await ask(graph, scope, headers) for scope in SCOPES for headers in shown]
        return replies + [
            await ask(graph, scope, keys[other])
            for scope in SCOPES
            for other in SCOPES
            if other != scope
        ]

    with caplog.at_level(logging.DEBUG):
        replies = using(place, refused)
    assert [reply.status for reply in replies] == [401] * 9 + [403] * 6
    for reply in replies:
        assert reply.headers["content-type"] == "application/problem+json"
        assert reply.headers["www-authenticate"].startswith('Bearer realm="flywheel"')
        assert set(reply.json()) == {"type", "title", "status", "detail"}
        assert "x-request-id" in reply.headers
    assert n_logged(place) == before
    told = caplog.text + "".join(reply.body.decode() for reply in replies)
    assert not any(shown["authorization"][20:] in told for shown in keys.values())

    async def let_in(graph: Graph) -> list[int]:
        open_paths = ("/healthz", "/readyz", "/openapi.json", "/docs")
        found = [(await ask(graph, scope, keys[scope])).status for scope in SCOPES]
        return found + [(await call(graph.http, "GET", path)).status for path in open_paths]

    assert using(place, let_in) == [200, 202, 202, 200, 200, 200, 200]


def test_a_key_past_its_rate_is_told_when_to_come_again(place: Settings) -> None:
    """And another key is not held up by it."""
    slow = key_for(place, "read", rate_per_s=0.001)
    quick = key_for(place, "read", client="quick")
    security = place.security.model_copy(update={"rate_burst": 2})
    limited = place.model_copy(update={"security": security})

    async def scenario(graph: Graph) -> list[Reply]:
        shown = (slow, slow, slow, quick)
        return [
            await call(graph.http, "POST", "/v1/recommend", SLATE, headers=one) for one in shown
        ]

    replies = using(limited, scenario)
    assert [reply.status for reply in replies] == [200, 200, 429, 200]
    assert int(replies[2].headers["retry-after"]) > 900


def test_what_a_gateway_logs_names_no_person(
    place: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor do its problems: a damaged history, bad requests, a store that is away."""
    state = UserState(PERSON, (HistoryEvent("i1", "click", 1),), 1)
    writer = SqliteFeatureWriter(place.feature_path)
    update = FeatureUpdate(0, 1, states=(state,))
    assert writer.update(0, writer.offset(0), (), (), lambda _: update) is update
    writer._connection.execute("UPDATE users SET history = x'c1'")
    writer.close()
    unlocked = place.model_copy(update={"security": SecuritySettings()})

    async def scenario(graph: Graph) -> list[Reply]:
        bodies = (SLATE, SLATE.replace(b"3}", b"0}"), SLATE[:-1], b'{"user_id": 7}')
        paths = [("/v1/recommend", body) for body in bodies] + [("/v1/events", EVENTS[:-1])]
        return [await call(graph.http, "POST", path, body) for path, body in paths]

    with caplog.at_level(logging.DEBUG):
        replies = using(unlocked, scenario)
    assert [reply.status for reply in replies] == [200, 422, 400, 400, 400]
    assert replies[0].json()["degraded"]
    assert user_hash(PERSON) in caplog.text
    assert PERSON not in caplog.text
    assert not any(PERSON.encode() in reply.body for reply in replies)


def test_the_interface_says_which_key_opens_what(place: Settings) -> None:
    """As OpenAPI has it; without a demand for keys it asks for none."""
    for settings in (place, place.model_copy(update={"security": SecuritySettings()})):
        reply = using(settings, lambda graph: call(graph.http, "GET", "/openapi.json"))
        document = reply.json()
        demanded = settings.security.keys == "required"
        assert ("securitySchemes" in document["components"]) is demanded
        for path, operations in document["paths"].items():
            for operation in operations.values():
                is_closed = demanded and path.startswith("/v1/")
                assert ("security" in operation) is is_closed
                assert {"401", "403", "429"} <= set(operation["responses"]) or not is_closed
                assert {"414", "431"} <= set(operation["responses"])
