"""The request path in one process at given rates: measured latency for the simulation to meet.

`python -m bench.scale.graph_point SETTINGS USERS SECONDS RATE...` prints a JSON list.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

import numpy as np
import torch

from bench.path_alone import until_ready
from bench.shadow_bars import Seen
from bench.shadow_cost import at_rate
from recsys.settings import Settings
from serve_app.gateway import Graph
from serve_app.kept_memory import keep_freed_memory


async def measure(
    settings: Settings, n_users: int, seconds: float, rates: list[float]
) -> list[dict[str, float]]:
    """Latency percentiles in ms at each rate of Poisson arrivals."""
    graph = Graph(settings, None, "scale", adds_request_id=True)
    await graph.start()
    try:
        await until_ready(graph)
        await at_rate(graph, n_users, 2.0, rates[0], Seen())
        found = []
        for rate in rates:
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
        return found
    finally:
        graph.stop()


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()
    _settings = Settings.model_validate_json(Path(sys.argv[1]).read_text())
    _rates = [float(word) for word in sys.argv[4:]]
    print(json.dumps(asyncio.run(measure(_settings, int(sys.argv[2]), float(sys.argv[3]), _rates))))
