"""One request to the HTTP door of the running cluster; never through a proxy."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster.local.ports import connect_host

if TYPE_CHECKING:
    from recsys.settings import ServeSettings


KEY_VARIABLE = "FLYWHEEL_API_KEY"
"""The key that requests of this command carry, where the service asks for one."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and JSON body; a body that is no JSON object is under `detail`."""

    status: int
    document: dict[str, Any]


def base_url(serve: ServeSettings) -> str:
    """Where a client on this machine finds the service."""
    return f"http://{connect_host(serve.host)}:{serve.port}"


def key_headers(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a request of this command shows; a key comes from the environment only."""
    key = environ.get(KEY_VARIABLE, "")
    return {"authorization": f"Bearer {key}"} if key else {}


def ask(
    serve: ServeSettings,
    method: str,
    path: str,
    document: Mapping[str, Any] | None = None,
    timeout_s: float = 5.0,
) -> Answer:
    """Send one request.

    Raises:
        OSError: nobody listens, or no answer came in time.
    """
    connection = http.client.HTTPConnection(connect_host(serve.host), serve.port, timeout=timeout_s)
    body = None if document is None else json.dumps(document).encode()
    headers = key_headers() | ({} if body is None else {"content-type": "application/json"})
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return Answer(response.status, _parse(response.read()))
    except http.client.HTTPException as error:
        raise ConnectionError(f"{type(error).__name__}: {error}") from error
    finally:
        connection.close()


def _parse(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except ValueError:
        found = body.decode(errors="replace")
    return found if isinstance(found, dict) else {"detail": found}
