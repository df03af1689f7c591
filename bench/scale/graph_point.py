"""The request path in one process at given rates: measured latency for the simulation to meet.

`python -m bench.scale.graph_point SETTINGS USERS SECONDS SHARE...` prints JSON: the greatest rate,
of callers that always ask, and latency at these shares of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.path_alone import until_ready
from bench.shadow_bars import Seen
from bench.shadow_cost import always_asking, at_rate
from recsys.settings import Settings
from serve_app.gateway import Graph
from serve_app.kept_memory import keep_freed_memory

_WARM_S = 2.0


async def measure(
    settings: Settings, n_users: int, seconds: float, shares: list[float]
) -> dict[str, Any]:
    """The greatest rate, and latency percentiles in ms at shares of it, by Poisson arrivals."""
    graph = Graph(settings, None, "scale", adds_request_id=True)
    await graph.start()
    try:
        await until_ready(graph)
        await always_asking(graph, n_users, _WARM_S, Seen())
        seen = Seen()
        began_s = time.perf_counter()
        await always_asking(graph, n_users, seconds, seen)
        greatest = len(seen.latencies_ms) / (time.perf_counter() - began_s)
        found = []
        for rate in (share * greatest for share in shares):
            seen = Seen()
            await at_rate(graph, n_users, seconds, rate, seen)
            p50_ms, p99_ms = np.percentile(seen.latencies_ms, (50, 99))
            n_failed = seen.statuses.total() - seen.statuses[200]
            found.append(
                {
                    "requests_per_s": rate,
                    "p50_ms": float(p50_ms),
                    "p99_ms": float(p99_ms),
                    "n_requests": float(seen.statuses.total()),
                    "n_failed": float(n_failed),
                }
            )
        return {"greatest_rate": greatest, "points": found}
    finally:
        graph.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    _settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    _shares = [float(word) for word in sys.argv[4:]]
    print(
        json.dumps(asyncio.run(measure(_settings, int(sys.argv[2]), float(sys.argv[3]), _shares)))
    )
