"""The ingress replica: builds the request path for its placement and keeps it in step."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recsys.settings import Settings
from recsys.stages import GATEWAY, Stage, stage_names
from recsys.stores.event_log import SqliteEventLog
from recsys.stores.feature_store import SqliteFeatureStore
from serve_app.http.http_routes import HttpApp
from serve_app.log_writer import LogWriter
from serve_app.pipeline import Pipeline
from serve_app.recommender import Recommender
from serve_app.residents.bundle_loading import BundleLoader, LoadedBundle
from serve_app.residents.live_items import LiveItems
from serve_app.residents.residency import Residency
from serve_app.stages.placement import FusedStage, HandleStage, StageClient
from serve_app.stages.stage_replica import replica_name, use_one_thread
from serve_app.telemetry import RayMetrics, Telemetry

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("ray.serve")


class Graph:
    """The request path of one gateway replica; without Ray where every stage is fused.

    Args:
        clients: a client per stage; None runs every stage in this process.
        replica_id: the name it reports readiness under.
        adds_request_id: see `HttpApp`.
    """

    def __init__(
        self,
        settings: Settings,
        clients: Mapping[str, StageClient] | None,
        replica_id: str,
        *,
        adds_request_id: bool,
    ) -> None:
        self.telemetry = Telemetry()
        self._settings = settings
        self._features = SqliteFeatureStore(settings.feature_path)
        loader = BundleLoader(settings, None if clients is None else (), is_gateway=True)
        self._live = LiveItems(
            self._features, settings.features.popular_limit, settings.retrieval.n_candidates
        )
        self.residency: Residency[LoadedBundle] = Residency(
            settings, GATEWAY, replica_id, loader.load, self._refresh_live
        )
        stages = self._fused() if clients is None else clients
        self.log = LogWriter(
            SqliteEventLog(settings.log_path, settings.events.n_partitions),
            settings.events.max_queued,
        )
        pipeline = Pipeline(stages, self._features, self._live, settings, self.telemetry)
        self.recommender = Recommender(self.residency, pipeline, stages, settings.serve)
        self.http = HttpApp(
            self.recommender,
            self.log,
            settings,
            self.telemetry,
            adds_request_id=adds_request_id,
        )
        self._n_dropped = 0

    async def start(self) -> None:
        """Load what is required, then follow the plan until `stop`."""
        await asyncio.to_thread(self.residency.start)
        await self.turn()

    async def turn(self) -> None:
        """What a replica does once per poll on its own loop."""
        await self.recommender.probe()
        n_dropped = self.log.n_dropped
        if n_dropped > self._n_dropped:
            self.telemetry.count("flywheel_dropped_events", n_dropped - self._n_dropped)
            self._n_dropped = n_dropped

    async def run(self) -> None:
        """Turn until cancelled."""
        while True:
            await asyncio.sleep(self._settings.serve.plan_poll_s)
            try:
                await self.turn()
            except Exception:
                logger.exception("a turn of the gateway failed; trying again")

    def stop(self) -> None:
        """Write what is queued and stop."""
        self.residency.stop()
        self.log.close()

    def _refresh_live(self) -> None:
        loaded = ((name, self.residency.peek(name)) for name in self.residency.bundle_ids)
        self._live.refresh(
            (name, bundle.gateway.items)
            for name, bundle in loaded
            if bundle is not None and bundle.gateway is not None
        )

    def _fused(self) -> dict[str, StageClient]:
        def finder(stage: str) -> Any:
            def find(bundle_id: str) -> Stage | None:
                loaded = self.residency.get(bundle_id)
                return None if loaded is None else loaded.stages.get(stage)

            return find

        names = stage_names(self._settings.retrieval.n_shards)
        return {name: FusedStage(name, finder(name)) for name in names}


class GatewayReplica:
    """The ingress deployment's class; `app` wraps it with Serve's ASGI ingress.

    Args:
        settings: the settings as a JSON document.
        handles: a Serve handle per stage; empty where stages are fused.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: dict[str, Any], handles: dict[str, DeploymentHandle[Any]]
    ) -> None:
        resolved = Settings.model_validate(settings)
        clients = {stage: HandleStage(stage, handle) for stage, handle in handles.items()}
        if not clients:
            use_one_thread()
        self._graph = Graph(resolved, clients or None, replica_name(), adds_request_id=False)
        self._metrics = RayMetrics(self._graph.telemetry)
        await self._graph.start()
        self._runner = asyncio.get_running_loop().create_task(self._graph.run())

    def __serve_build_asgi_app__(self) -> HttpApp:
        """The ASGI application Serve hands requests to."""
        return self._graph.http

    async def __del__(self) -> None:
        """Stop what this replica started."""
        if not hasattr(self, "_runner"):
            return
        self._runner.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._runner
        await asyncio.to_thread(self._graph.stop)
        self._metrics.stop()
