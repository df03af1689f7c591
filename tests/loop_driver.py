"""Drives the command `cluster` as a user would, on ports and in a directory of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tests.lane_ports import free_ports

SMALL_MODEL = {
    "TRAIN__TOWERS__EMBEDDING_DIM": "16",
    "TRAIN__TOWERS__HISTORY_LENGTH": "30",
    "TRAIN__TOWERS__EPOCHS": "3",
    "TRAIN__TOWERS__MAX_MINUTES": "0.3",
    "TRAIN__SCORER__EPOCHS": "1",
    "TRAIN__SCORER__MAX_MINUTES": "0.2",
    "RETRIEVAL__N_CANDIDATES": "60",
}
PORTS = ("SERVE__PORT", "CLUSTER__RAY_PORT", "CLUSTER__HAPROXY_STATS_PORT")
PORTS += ("CLUSTER__HAPROXY_METRICS_PORT", "CLUSTER__FALLBACK_PORT", "CLUSTER__METRICS_PORT")


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float) -> None:
    """Poll until `condition` holds; fail the test with `what` if it never does."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s} s in vain for {what}"
        time.sleep(0.05)


class Loop:
    """One data directory with its own ports, and the commands run on it."""

    def __init__(self, data_dir: Path, **settings: str) -> None:
        self.data_dir = data_dir
        ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
        self.url = f"http://127.0.0.1:{ports['SERVE__PORT']}"
        chosen = {**SMALL_MODEL, **ports, "DATA_DIR": str(data_dir), **settings}
        self.environment = os.environ | {f"FLYWHEEL__{key}": value for key, value in chosen.items()}
        self.directory: Path | None = None
        """Where commands run; None is where this process does."""
        self.headers: dict[str, str] = {}
        """What requests of `recommend` and `post_events` carry beside their bodies."""

    def run(self, *arguments: str, expect: int = 0, timeout_s: float = 280) -> str:
        """Run one `cluster` command; its standard output."""
        done = subprocess.run(
            [sys.executable, "-m", "cluster", *arguments],
            env=self.environment,
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == expect, (
            f"cluster {' '.join(arguments)} exited {done.returncode}, expected {expect}:\n"
            f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        )
        return done.stdout

    def run_json(self, *arguments: str, expect: int = 0) -> Any:
        """Run one command with `--json`; its document."""
        return json.loads(self.run("--json", *arguments, expect=expect))

    def demand_keys(self) -> None:
        """Have the service ask for a key, and show one that opens slates and events."""
        self.environment["FLYWHEEL__SECURITY__KEYS"] = "required"
        key = self.run_json("keys", "create", "--scope", "read", "--scope", "events")["key"]
        self.environment["FLYWHEEL_API_KEY"] = key
        self.headers = {"authorization": f"Bearer {key}"}

    def demand_signatures(self, key_file: Path) -> None:
        """Have everything that publishes sign by a new key, and trust in nobody else."""
        key = self.run_json("keys", "signing", "--out", str(key_file))["public_key"]
        self.environment |= {
            "FLYWHEEL__SECURITY__SIGNING_KEY_FILE": str(key_file),
            "FLYWHEEL__SECURITY__TRUSTED_KEYS": json.dumps([key]),
            "FLYWHEEL__SECURITY__REQUIRE_SIGNED_BUNDLES": "true",
        }

    def recommend(self, user_id: str, k: int = 20) -> dict[str, Any]:
        """One answer of the running service."""
        body = {"user_id": user_id, "k": k}
        response = httpx.post(
            f"{self.url}/v1/recommend", json=body, headers=self.headers, timeout=10
        )
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    def post_events(self, *events: dict[str, Any]) -> list[str]:
        """Send engagements; their acknowledged event ids."""
        body = {"events": list(events)}
        response = httpx.post(f"{self.url}/v1/events", json=body, headers=self.headers, timeout=10)
        assert response.status_code == 202, response.text
        ids: list[str] = response.json()["event_ids"]
        return ids

    def is_ready(self) -> bool:
        """Whether the service says that it can answer."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False


def item_ids(answer: dict[str, Any]) -> list[str]:
    """The items of an answer, in order."""
    return [item["item_id"] for item in answer["items"]]
