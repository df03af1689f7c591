"""A naive Ray Serve composition of the same stages: one handle call per request and stage.

No micro-batching and Ray's default flags: what a first version written from the documentation does.
Run as `python -m bench.naive_graph SETTINGS BUNDLE PORT`; it prints READY and serves until SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray import serve
from ray.serve.handle import DeploymentHandle
from starlette.requests import Request

from bench.one_process import Catalogue, impression_of, order_inputs
from recsys.bundles.bundle import read_manifest
from recsys.settings import Settings
from recsys.stages import ORDERING, SCORER, load_stage, shard_stage_name
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.stores.log.event_log import SqliteEventLog
from recsys.types import Batch
from serve_app.log_writer import LogWriter


@serve.deployment(max_ongoing_requests=200, ray_actor_options={"num_cpus": 0.1})
class NaiveStage:
    """One stage, called once per request."""

    def __init__(self, name: str, bundle_dir: str, settings_json: str) -> None:
        directory = Path(bundle_dir)
        settings = Settings.model_validate_json(settings_json)
        self._stage = load_stage(name, directory, read_manifest(directory), settings)

    async def call(self, method: str, batch: Batch) -> Batch:
        """Run the stage on a batch of one."""
        return self._stage(method, batch)


@serve.deployment(max_ongoing_requests=400, ray_actor_options={"num_cpus": 0.1})
class NaiveGateway:
    """Awaits the stages one after another for each request."""

    def __init__(
        self, stages: dict[str, DeploymentHandle[Any]], bundle: str, settings: str
    ) -> None:
        parsed = Settings.model_validate_json(settings)
        self._stages = stages
        self._catalogue = Catalogue(Path(bundle), parsed)
        self._store = SqliteFeatureStore(parsed.feature_path)
        log = SqliteEventLog(parsed.log_path, parsed.events.n_partitions)
        self._writer = LogWriter(log, parsed.events.max_queued)
        names = [shard_stage_name(shard) for shard in range(parsed.retrieval.n_shards)]
        self._shards = [stages[name] for name in names]

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One slate."""
        users = self._store.read_users([request.query_params["user_id"]])
        history = self._catalogue.histories(users)
        scorer = self._stages[SCORER]
        query = await scorer.call.remote("encode", history)
        query["k"] = np.array([self._catalogue.retrieval.n_candidates], np.int32)
        answers = await asyncio.gather(*(s.call.remote("search", query) for s in self._shards))
        found = self._catalogue.merge(users, answers)
        candidates = {"rows": found.rows, "sources": found.sources, "ranks": found.ranks}
        scored = await scorer.call.remote(
            "score", {**history, "user_emb": query["user_emb"], **candidates}
        )
        slate = await self._stages[ORDERING].call.remote(
            "order", order_inputs(found.rows, scored["utility"], 0)
        )
        impression = impression_of(self._catalogue, users[0], found, scored, slate, 0)
        self._writer.offer(impression)
        return {"items": [item.item_id for item in impression.slate]}


def main(settings_path: str, bundle: str, port: str) -> None:
    """Serve until SIGTERM."""
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    settings = Path(settings_path).read_text()
    n_shards = Settings.model_validate_json(settings).retrieval.n_shards
    ray.init(num_cpus=4, include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(port)})
    names = [SCORER, ORDERING, *(shard_stage_name(shard) for shard in range(n_shards))]
    stages = {
        name: NaiveStage.options(name=name).bind(name, bundle, settings)  # type: ignore[attr-defined]
        for name in names
    }
    graph = NaiveGateway.bind(stages, bundle, settings)  # type: ignore[attr-defined]
    quiet = {"enable_access_log": False, "log_level": "ERROR"}
    serve.run(graph, name="naive", route_prefix="/", logging_config=quiet)
    print("READY", flush=True)
    stop.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]
    ray.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:4])
