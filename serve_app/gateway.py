"""The ingress replica: builds the request path for its placement and keeps it in step."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from recsys.link_certificates import open_link_certificates
from recsys.settings import Settings
from recsys.stages import GATEWAY, SCORER, Stage, stage_names
from recsys.stores.features.open_features import open_features
from recsys.stores.log.open_log import open_writer_log
from serve_app.door.front_door import DOOR
from serve_app.door.wide_accept import accept_widely
from serve_app.http.http_routes import HttpApp
from serve_app.kept_memory import keep_freed_memory
from serve_app.log_writer import LogHealth, LogWriter
from serve_app.pipeline import Pipeline
from serve_app.recommender import Recommender
from serve_app.residents.bundle_loading import BundleLoader, LoadedBundle
from serve_app.residents.live_items import LiveItems
from serve_app.residents.residency import Residency
from serve_app.security.access import open_access
from serve_app.shadowing.shadow_traffic import ShadowTraffic
from serve_app.stages.explaining import EXPLAIN, Explainer
from serve_app.stages.graph_stages import RemoteStages
from serve_app.stages.placement import FusedStage, StageClient
from serve_app.stages.stage_replica import replica_name, use_one_thread
from serve_app.telemetry import RayMetrics, Telemetry, pass_on_stages

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("ray.serve")


class Graph:
    """The request path of one gateway replica; without Ray where every stage is fused.

    Args:
        clients: a client per stage and one to explain with; None runs every stage in this process.
        replica_id: the name it reports readiness under.
        adds_request_id: see `HttpApp`.
        clients_beside: the same stages for shadows; None takes `clients`.
        telemetry: where the clients count; None makes one.
    """

    def __init__(
        self,
        settings: Settings,
        clients: Mapping[str, StageClient] | None,
        replica_id: str,
        *,
        adds_request_id: bool,
        clients_beside: Mapping[str, StageClient] | None = None,
        telemetry: Telemetry | None = None,
    ) -> None:
        self.telemetry = telemetry or Telemetry()
        self._settings = settings
        self._features = open_features(settings)
        loader = BundleLoader(
            settings,
            None if clients is None else (),
            is_gateway=True,
            stable_id=lambda: self.residency.stable_id,
        )
        self._live = LiveItems(self._features, settings.features.popular_limit, settings.retrieval)
        self.residency: Residency[LoadedBundle] = Residency(
            settings, GATEWAY, replica_id, loader.load, self._refresh_live
        )
        stages = self._fused() if clients is None else clients
        beside = stages if clients_beside is None else clients_beside
        self._event_log = open_writer_log(settings, replica_id)
        self.log = LogWriter(self._event_log, settings.events.max_queued)
        pipeline = Pipeline(stages, self._features, self._live, settings, self.telemetry)
        explainer = Explainer(
            stages[EXPLAIN], settings.serve.stage_timeout_ms / 1000, self.telemetry
        )
        self.recommender = Recommender(
            self.residency, pipeline, stages, beside, settings.serve, explainer, self.telemetry
        )
        self._of_copies = Telemetry()
        self.shadows = self._shadow_traffic(beside)
        self.access = open_access(settings)
        self.http = HttpApp(
            self.recommender,
            self.log,
            settings,
            self.telemetry,
            adds_request_id=adds_request_id,
            after=self.shadows.offer,
            access=self.access,
        )
        self._told = LogHealth("ok", n_queued=0, n_dropped=0, n_failed_batches=0)

    def _shadow_traffic(self, stages: Mapping[str, StageClient]) -> ShadowTraffic:
        settings = unlogged(self._settings)
        copied = Pipeline(stages, self._features, self._live, settings, self._of_copies)
        return ShadowTraffic(
            lambda: self.residency.shadows,
            self.recommender.find_reached,
            copied.answer,
            self.recommender.live_load,
            self.log,
            self._settings.serve,
            self.telemetry,
        )

    async def start(self) -> None:
        """Load what is required, then follow the plan until `stop`."""
        await asyncio.to_thread(self.access.start)
        await asyncio.to_thread(self.residency.start)
        await self.turn()

    async def turn(self) -> None:
        """What a replica does once per poll on its own loop."""
        await self.recommender.probe()
        self._tell_health(self.log.health())
        self.http.tell_refused()
        pass_on_stages(self._of_copies, self.telemetry)

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
        self.access.stop()
        self.shadows.stop()
        self.residency.stop()
        self.log.close()
        self._event_log.close()
        self._features.close()

    def _tell_health(self, now: LogHealth) -> None:
        """Count what happened to the log since the last turn."""
        then, self._told = self._told, now
        for name, n in (
            ("flywheel_dropped_events", now.n_dropped - then.n_dropped),
            ("flywheel_failed_log_writes", now.n_failed_batches - then.n_failed_batches),
            ("flywheel_detoured_events", now.n_spooled - then.n_spooled),
            ("flywheel_damaged_log_files", now.n_damaged_files - then.n_damaged_files),
        ):
            if n > 0:
                self.telemetry.count(name, n)
        self.telemetry.set_level("flywheel_queued_events", now.n_queued)
        self.telemetry.set_level("flywheel_spooled_events", now.spooled_events)
        self.telemetry.set_level("flywheel_spooled_bytes", now.spooled_bytes)

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
        fused = {name: FusedStage(name, finder(name)) for name in names}
        return {**fused, EXPLAIN: fused[SCORER]}


def unlogged(settings: Settings) -> Settings:
    """The settings of answers of which nobody records more than the slate.

    What is drawn between two stages stays: it is in the time that copies are compared by.
    """
    columns = {"log_unshown": 0, "log_history": 0}
    return settings.model_copy(update={"serve": settings.serve.model_copy(update=columns)})


class GatewayReplica:
    """The ingress deployment's class; `app` wraps it with Serve's ASGI ingress.

    Args:
        settings: the settings as a JSON document.
        handles: a Serve handle per stage; empty where stages are fused.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, settings: dict[str, Any], handles: dict[str, DeploymentHandle[Any]]
    ) -> None:
        keep_freed_memory()
        # Serve makes its HTTP server on this loop once this returns.
        accept_widely(asyncio.get_running_loop())
        resolved = Settings.model_validate(settings)
        name = replica_name()
        placement = resolved.serve.placement
        telemetry = Telemetry()
        self._stages: RemoteStages | None = None
        if placement == "fused":
            use_one_thread()
        else:
            certificates = open_link_certificates(resolved)
            rng = random.Random(name)
            self._stages = RemoteStages(placement, handles, rng, telemetry, certificates)
            await self._stages.start()
        remote = self._stages
        self._graph = Graph(
            resolved,
            None if remote is None else remote.clients,
            name,
            adds_request_id=False,
            clients_beside=None if remote is None else remote.clients_beside,
            telemetry=telemetry,
        )
        # A process holds one replica.
        DOOR.admission = self._graph.http.admission
        self._metrics = RayMetrics(self._graph.telemetry)
        await self._graph.start()
        self._runner = asyncio.get_running_loop().create_task(self._graph.run())

    def __serve_build_asgi_app__(self) -> HttpApp:
        """The ASGI application Serve hands requests to."""
        return self._graph.http

    async def __del__(self) -> None:
        """Stop what this replica started."""
        try:
            if hasattr(self, "_graph"):
                # Before the stages go: else what copies are under way would look like failures.
                self._graph.shadows.stop()
            stages: RemoteStages | None = getattr(self, "_stages", None)
            if stages is not None:
                await stages.stop()
            if hasattr(self, "_runner"):
                self._runner.cancel()
                await asyncio.wait([self._runner])
        finally:
            # Whatever else fails, what is queued for the log is written.
            if hasattr(self, "_graph"):
                await asyncio.to_thread(self._graph.stop)
            if hasattr(self, "_metrics"):
                self._metrics.stop()
