"""The gateway's whole request path in this process, without Ray and without an HTTP server.

Run as `python -m bench.path_alone SETTINGS CALLERS REQUESTS USERS`; it says READY when it is warm,
waits for a line, answers, and prints microseconds of processor time per request.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch

from recsys.errors import FleetError
from recsys.settings import Settings
from serve_app.gateway import Graph
from serve_app.http.http_exchange import Scope
from serve_app.kept_memory import keep_freed_memory

_WARM_TURNS = 10
_READY_S = 60.0


class Callers:
    """Asks the gateway's ASGI application as a server would, so many at a time."""

    def __init__(self, graph: Graph, n_callers: int, n_users: int) -> None:
        self._graph = graph
        self._n_callers = n_callers
        self._n_users = n_users
        self._draw = random.Random(0)
        self.n_failed = 0

    async def ask(self, n_requests: int) -> None:
        """Answer so many requests."""
        each = n_requests // self._n_callers
        await asyncio.gather(*(self._ask_again(each) for _ in range(self._n_callers)))

    async def _ask_again(self, n_requests: int) -> None:
        for _ in range(n_requests):
            user = self._draw.randrange(self._n_users)
            scope: Scope = {
                "type": "http",
                "method": "GET",
                "path": "/v1/recommend",
                "query_string": b"user_id=%d&k=20" % user,
                "headers": [],
            }
            await self._graph.http(scope, _nothing_more, self._took)

    async def _took(self, message: Any) -> None:
        if message["type"] == "http.response.start" and message["status"] != 200:
            self.n_failed += 1


async def _nothing_more() -> dict[str, Any]:  # ruff: ignore[unused-async]  # ASGI awaits it
    return {"type": "http.request", "body": b"", "more_body": False}


async def until_ready(graph: Graph) -> None:
    deadline_s = time.monotonic() + _READY_S
    while (reason := graph.recommender.why_not_ready()) is not None:
        if time.monotonic() > deadline_s:
            raise FleetError(f"the gateway is not ready: {reason}; promote the bundle first")
        await asyncio.sleep(0.05)
        await graph.turn()


async def _main(settings: Settings, n_callers: int, n_requests: int, n_users: int) -> None:
    graph = Graph(settings, None, "alone", adds_request_id=True)
    await graph.start()
    await until_ready(graph)
    callers = Callers(graph, n_callers, n_users)
    await callers.ask(_WARM_TURNS * n_callers)
    callers.n_failed = 0
    print("READY", flush=True)
    sys.stdin.readline()
    began = time.process_time()
    await callers.ask(n_requests)
    n_asked = n_requests // n_callers * n_callers
    used_us = (time.process_time() - began) * 1e6 / n_asked
    print(used_us, n_asked, callers.n_failed, flush=True)
    # Whoever reads the meters does so before the log is written out.
    sys.stdin.readline()
    graph.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    _settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    asyncio.run(_main(_settings, *map(int, sys.argv[2:5])))
