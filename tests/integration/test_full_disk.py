"""Serving's writer when the system refuses to write: nothing waits, nothing grows, it mends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

_SERVING = """
import asyncio, json, resource, sys, time
from recsys.errors import StoreError
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.log.open_log import open_writer_log
from serve_app.log_writer import LogWriter

settings = Settings.model_validate_json(sys.argv[1])
MAX_QUEUED = 500
log = open_writer_log(settings, "gateway")
writer = LogWriter(log, MAX_QUEUED)

def click(name):
    return Engagement(event_id=name, kind="click", user_id="u" + name[-1], item_id="i" * 250,
                      timestamp_ms=1, received_at_ms=1, origin="api")

def limit(n_bytes):
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, resource.RLIM_INFINITY))

async def acknowledged(name):
    try:
        await asyncio.wait_for(writer.append([click(name)]), 20)
    except StoreError as error:
        return str(error)
    return True

async def scenario():
    told = {"before": [await acknowledged(f"before{n}") for n in range(5)]}
    limit(60_000)
    told["full"] = []
    while len(told["full"]) < 400 and not any(isinstance(t, str) for t in told["full"][-3:]):
        told["full"].append(await acknowledged(f"full{len(told['full'])}"))
    slowest_s = 0.0
    for n in range(2_000):
        started_s = time.monotonic()
        writer.offer(click(f"offer{n}"))
        slowest_s = max(slowest_s, time.monotonic() - started_s)
    told |= {"depth": writer.queue_depth, "slowest_s": slowest_s, "n_dropped": writer.n_dropped}
    told["refused"] = await acknowledged("refused")
    told["state"] = writer.health().state
    limit(resource.RLIM_INFINITY)
    give_up_at_s = time.monotonic() + 30
    while writer.queue_depth or writer.health().state == "failing":
        assert time.monotonic() < give_up_at_s
        await asyncio.sleep(0.01)
    told["after"] = await acknowledged("after")
    told["mended"] = writer.health().state
    return told

told = asyncio.run(scenario())
writer.close()
ids = [record.event_id for p, end in log.end_offsets().items() for record in log.read(p, 0, end)]
log.close()
print(json.dumps(told | {"ids": ids, "n_dropped_at_end": writer.n_dropped}))
"""


def test_a_full_disk_stops_no_answer_and_mends_itself(tmp_path: Path) -> None:
    """Awaited events are refused with the reason, offered ones wait within their bound."""
    settings = json.dumps({"data_dir": str(tmp_path)})
    done = subprocess.run(
        [sys.executable, "-c", _SERVING, settings], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["before"] == [True] * 5
    assert isinstance(told["full"][-1], str)
    assert isinstance(told["refused"], str)
    assert str(tmp_path) in told["refused"]
    assert (told["state"], told["mended"]) == ("failing", "ok")
    assert told["after"] is True
    assert told["depth"] <= 500
    assert told["slowest_s"] < 1.0
    assert told["n_dropped"] == told["n_dropped_at_end"] > 0
    stored = told["ids"]
    assert len(set(stored)) == len(stored)
    acknowledged = {f"full{n}" for n, answer in enumerate(told["full"]) if answer is True}
    assert {f"before{n}" for n in range(5)} | acknowledged | {"after"} <= set(stored)
    n_offers_stored = sum(name.startswith("offer") for name in stored)
    assert n_offers_stored + told["n_dropped"] == 2_000
