"""Two applications as small as can be, for tests of starting and stopping."""

from __future__ import annotations

import os
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1})
class Page:
    """Answers every path with its text, pid and priority."""

    def __init__(self, text: str) -> None:
        self.text = text

    async def __call__(self, request: Request) -> JSONResponse:
        """One answer."""
        return JSONResponse(
            {
                "text": self.text,
                "pid": os.getpid(),
                "nice": os.getpriority(os.PRIO_PROCESS, 0),
            }
        )


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0.1})
class Follower:
    """Does nothing and has no route."""

    async def __call__(self) -> None:
        """Nothing."""


def build(args: dict[str, Any]) -> serve.Application:
    """The page."""
    return Page.bind(args["text"])


def build_follower(args: dict[str, Any]) -> serve.Application:
    """The application without a route."""
    return Follower.bind()
