"""The HTTP door over real sockets without Ray: a fused graph behind a server in a thread."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import uvicorn

from cluster.keys.key_writer import KeyWriter
from recsys.keys import SCOPES, new_key
from recsys.security_settings import SecuritySettings
from recsys.settings import Settings
from serve_app.gateway import Graph
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Door:
    """Where it is, and a key for each way to come in."""

    url: str
    keys: dict[str, str]
    """By what it opens: each scope alone, and `all`; empty where no key is asked for."""


@contextmanager
def serving(folder: Path, *, keys: bool) -> Generator[Door]:
    """A door on a free port of the loopback address."""
    settings = small_settings(folder / "var", placement="fused", deadline_ms=10_000)
    security = SecuritySettings(keys="required" if keys else "off")
    settings = settings.model_copy(update={"security": security})
    bundle_id = publish_small(settings, folder / "staging", seed=1).bundle_id
    put_in_force(settings, all_to(bundle_id))
    given = _give_keys(settings) if keys else {}
    config = uvicorn.Config(_Served(settings), port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield Door(f"http://127.0.0.1:{_port(server, thread)}", given)
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)


class _Served:
    """The gateway's application, made and ended on the server's loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._graph: Graph | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            self._graph = Graph(self._settings, None, "gateway-0", adds_request_id=True)
            await self._graph.start()
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.to_thread(self._graph.stop)
            await send({"type": "lifespan.shutdown.complete"})
            return
        assert self._graph is not None
        await self._graph.http(scope, receive, send)


def _give_keys(settings: Settings) -> dict[str, str]:
    now_ms = time.time_ns() // 1_000_000
    writer = KeyWriter(settings.control_url)
    given = {}
    for name in (*SCOPES, "all"):
        made = new_key(SCOPES if name == "all" else (name,), now_ms, random.Random(name).randbytes)
        writer.add(made.key, now_ms)
        given[name] = made.token
    writer.close()
    return given


def _port(server: uvicorn.Server, thread: threading.Thread) -> int:
    deadline = time.monotonic() + PATIENCE_S
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise RuntimeError("the server of the fuzzed door did not start")
        time.sleep(0.02)
    return int(server.servers[0].sockets[0].getsockname()[1])
