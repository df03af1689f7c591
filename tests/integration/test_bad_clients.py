"""Whatever bad callers do, those who come meanwhile on new connections are answered: the door and
the intake of bodies behind HAProxy as `cluster up` starts it, without Ray.
"""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn

from recsys.errors import RecsysError
from serve_app.door.admission import Admission
from serve_app.door.body_intake import BodyIntake
from serve_app.door.concurrency_limit import LimitRules
from serve_app.door.front_door import SEAT, pass_door
from serve_app.http.http_exchange import Exchange, HttpReply, Receive, Scope, Send, send_reply
from serve_app.http.problems import problem_reply
from tests.bad_clients import ATTACKS, N_SILENT, Attack
from tests.haproxy_alone import haproxy_before, is_open
from tests.serving_faults.fault_load import await_that

pytestmark = pytest.mark.integration
N_LIVE = 40
MAX_BODY_BYTES = 1_048_576
ANSWER = b'{"items": []}' + b" " * 65_536
"""More than HAProxy and a slow reader's kernel hold for it."""
_ANSWER_TIMEOUT_S = 5.0
"""Half of what HAProxy allows for a head: nobody waits until bad callers are cut off."""


class SmallGateway:
    """A slate for everybody, events of a bounded size, behind the door of the real one."""

    def __init__(self) -> None:
        rules = LimitRules.of(floor=32, working=128, ceiling=512, deadline_ms=1_000)
        self.admission = Admission(rules, rng=random.Random(1))
        self._bodies = BodyIntake()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        await pass_door(self.admission, self._answer, scope, receive, send, "r1")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        reply = HttpReply(200, ANSWER)
        with scope[SEAT] as seat:
            if scope["method"] == "POST":
                exchange = Exchange(scope, receive, "r1", 0, seat, 0.0)
                try:
                    await self._bodies.read(exchange, MAX_BODY_BYTES)
                except RecsysError as error:
                    reply = problem_reply(error)
        await send_reply(send, reply, "r1")


@contextmanager
def listening(gateway: SmallGateway) -> Generator[int]:
    """The port on which a gateway listens, on a loop of its own."""
    with socket.socket() as own:
        own.bind(("127.0.0.1", 0))
        config = uvicorn.Config(gateway, log_level="critical", lifespan="off")  # type: ignore[arg-type]
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [own]})
        thread.start()
        port = own.getsockname()[1]
        try:
            await_that(lambda: is_open(port), "the gateway listening")
            yield port
        finally:
            server.should_exit = server.force_exit = True
            thread.join()


@pytest.fixture
def many_files() -> Generator[None]:
    """As many open files as there are bad callers, where that is allowed."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    _, most = before
    if most != resource.RLIM_INFINITY and most < N_SILENT + 4_096:
        pytest.skip(f"{most} open files are allowed, {N_SILENT + 4_096} are needed (ulimit -Hn)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (N_SILENT + 4_096, most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def live_answers(port: int) -> list[int]:
    """The status of requests during an attack, each on a new connection."""
    found = []
    for _ in range(N_LIVE):
        async with httpx.AsyncClient(timeout=_ANSWER_TIMEOUT_S, trust_env=False) as client:
            url = f"http://127.0.0.1:{port}/v1/recommend"
            found.append((await client.get(url, params={"user_id": "u1"})).status_code)
    return found


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_live_callers_are_answered_whatever_bad_ones_do(
    attack: Attack, tmp_path: Path, many_files: None
) -> None:
    """All of them, while it lasts; afterwards nothing of it is held."""

    async def both(port: int) -> list[int]:
        async with attack(port):
            return await live_answers(port)

    gateway = SmallGateway()
    with listening(gateway) as behind, haproxy_before(behind, tmp_path) as port:
        assert asyncio.run(both(port)) == [200] * N_LIVE
        await_that(lambda: gateway.admission.n_open == 0, "all exchanges ended", 30)
