"""From a request to the bundle that answers it: the user's arm, its batch, and the way back to
stable when a stage lacks the bundle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from recsys.errors import DeadlineExceeded
from recsys.settings import ServeSettings
from recsys.traffic import Arm, TrafficPlan
from serve_app.asks import Answer, Ask
from serve_app.assignment import AssignedArm, Assigner, stable_instead
from serve_app.http.http_exchange import ClientGone, Exchange
from serve_app.http.problems import NotReady
from serve_app.http.recommend_requests import RecommendRequest
from serve_app.micro_batch import IsLive, MicroBatcher
from serve_app.pipeline import Pipeline
from serve_app.residents.bundle_loading import GatewayBundle, LoadedBundle
from serve_app.residents.residency import Residency, stable_arm
from serve_app.shadowing.copy_rules import LiveLoad
from serve_app.stages.explaining import Explainer
from serve_app.stages.ladder import Ladder
from serve_app.stages.placement import BundleMiss, StageClient
from serve_app.stages.reach import unreachable_stage
from serve_app.telemetry import Telemetry


class Recommender:
    """Answers single requests.

    Args:
        residency: the plan and the gateway's own part of each bundle.
        stages: a client per stage name, to probe bundles with.
        stages_beside: the same, to probe those of shadows and experiments with.
    """

    def __init__(
        self,
        residency: Residency[LoadedBundle],
        pipeline: Pipeline,
        stages: Mapping[str, StageClient],
        stages_beside: Mapping[str, StageClient],
        settings: ServeSettings,
        explainer: Explainer,
        telemetry: Telemetry,
    ) -> None:
        self._residency = residency
        self._pipeline = pipeline
        self._explainer = explainer
        self._stages = stages
        self._stages_beside = stages_beside
        self._settings = settings
        self._telemetry = telemetry
        self._assigner = Assigner(telemetry)
        self._batchers: dict[tuple[str, bytes], MicroBatcher[Ask, Answer]] = {}
        """By bundle and overrides of its ordering: a batch is ordered by one policy."""
        self._reached: set[str] = set()

    @property
    def plan(self) -> TrafficPlan | None:
        """The plan in force here."""
        return self._residency.plan

    def assign(self, user_id: str) -> AssignedArm:
        """The arm that answers a user.

        Raises:
            NotReady: there is no plan yet.
        """
        return self._assigner.assign(self._followed(), self._residency.experiments, user_id)

    async def recommend(
        self, request: RecommendRequest, exchange: Exchange, arm: AssignedArm
    ) -> Answer:
        """Answer with the arm's bundle, or with stable's if a stage lacks that one.

        Raises:
            DeadlineExceeded: no answer in time.
            Overloaded: no bundle or no source can answer.
            ClientGone: its caller left before it was worked on.
        """
        deadline_ms = self._deadline_ms(request)
        expires_at_s = exchange.seat.entered_s + deadline_ms / 1000
        ask = Ask(
            request,
            exchange.request_id,
            arm.variant,
            exchange.received_at_ms,
            expires_at_s,
            arm.experiment,
            arm.experiments,
            arm.overrides,
            exchange.has_left,
        )
        try:
            async with asyncio.timeout(expires_at_s - time.monotonic()):
                try:
                    return await self._submit(arm.bundle_id, ask)
                except BundleMiss:
                    return await self._answer_by_stable(arm, ask)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer within {deadline_ms} ms; allow more with deadline_ms, or send less load"
            ) from error

    async def probe(self) -> None:
        """Try the stages of planned bundles not reached so far, and forget batchers of old ones."""
        plan = self._residency.plan
        await self._reach(plan.bundle_ids if plan else (), self._stages)
        await self._reach(self._residency.beside, self._stages_beside)
        resident = set(self._residency.bundle_ids)
        self._reached &= resident
        for (bundle_id, overrides), batcher in list(self._batchers.items()):
            # One with overrides is made anew when the next ask comes, if its experiment goes on.
            if (overrides or bundle_id not in resident) and batcher.is_idle:
                del self._batchers[bundle_id, overrides]

    def find_reached(self, bundle_id: str) -> GatewayBundle | None:
        """A bundle for which this gateway and every stage can answer, or None."""
        return self._find(bundle_id) if bundle_id in self._reached else None

    def live_load(self) -> LiveLoad:
        """How busy this gateway is with requests of users."""
        batchers = self._batchers.values()
        return LiveLoad(
            n_waiting=sum(batcher.n_waiting for batcher in batchers),
            is_full=any(batcher.is_full for batcher in batchers),
            is_answering=not all(batcher.is_idle for batcher in batchers),
        )

    def why_not_ready(self) -> str | None:
        """What keeps this replica from answering by the whole plan, or None."""
        plan = self._residency.plan
        if plan is None:
            return "no traffic plan yet: no bundle is stable; publish one and promote it"
        states = self._residency.states()
        for bundle_id in plan.bundle_ids:
            state, reason = states.get(bundle_id, ("loading", ""))
            if state != "ready":
                return (
                    f"bundle {bundle_id} is {state} in the gateway{': ' if reason else ''}{reason}"
                )
            if bundle_id not in self._reached:
                return f"not every stage has answered for bundle {bundle_id} yet"
        return None

    async def _reach(self, bundle_ids: Sequence[str], stages: Mapping[str, StageClient]) -> None:
        timeout_s = self._settings.stage_timeout_ms / 1000
        for bundle_id in bundle_ids:
            bundle = None if bundle_id in self._reached else self._find(bundle_id)
            if bundle and await unreachable_stage(stages, bundle, timeout_s) is None:
                self._reached.add(bundle_id)

    async def _answer_by_stable(self, arm: AssignedArm, ask: Ask) -> Answer:
        if arm.bundle_side:
            experiment = arm.experiment or ""
            self._telemetry.count("flywheel_experiment_fallbacks", experiment=experiment)
        stable = stable_instead(self._followed(), arm)
        again = replace(
            ask,
            variant=stable.variant,
            experiment=stable.experiment,
            experiments=stable.experiments,
        )
        return await self._submit(stable.bundle_id, again)

    async def _submit(self, bundle_id: str, ask: Ask) -> Answer:
        bundle = self._find(bundle_id)
        if bundle is None:
            if bundle_id != self._stable().bundle_id:
                raise BundleMiss(f"the gateway does not hold bundle {bundle_id}")
            raise NotReady(f"bundle {bundle_id} is not loaded in the gateway yet; try again later")
        key = (bundle_id, ask.overrides)
        batcher = self._batchers.get(key)
        if batcher is None:
            batcher = self._batchers[key] = self._new_batcher(bundle)
        answer = await batcher.submit(ask)
        return await self._explainer.explain(answer) if ask.request.explain else answer

    def _new_batcher(self, bundle: GatewayBundle) -> MicroBatcher[Ask, Answer]:
        # One per batcher: a bundle that is slow leaves the answers of the others whole.
        ladder = Ladder(self._settings.ladder_wait_ms / 1000)

        async def run(asks: Sequence[Ask], is_live: IsLive) -> Sequence[Answer | Exception]:
            may_miss = self._stable().bundle_id != bundle.bundle_id
            now_s = time.monotonic()
            rung = ladder.rung(now_s - min(map(self._asked_at_s, asks)), now_s)
            return await self._pipeline.answer(bundle, asks, is_live, may_miss=may_miss, rung=rung)

        return MicroBatcher(
            run,
            max_batch=self._settings.max_batch,
            max_in_flight=self._settings.max_batches_in_flight,
            leave=self._why_left,
        )

    def _deadline_ms(self, request: RecommendRequest) -> int:
        return request.deadline_ms or self._settings.deadline_ms

    def _asked_at_s(self, ask: Ask) -> float:
        return ask.expires_at_s - self._deadline_ms(ask.request) / 1000

    def _why_left(self, ask: Ask) -> Exception | None:
        if not ask.has_left():
            return None
        self._telemetry.count("flywheel_left")
        return ClientGone()

    def _find(self, bundle_id: str) -> GatewayBundle | None:
        loaded = self._residency.get(bundle_id)
        return None if loaded is None else loaded.gateway

    def _stable(self) -> Arm:
        return stable_arm(self._followed())

    def _followed(self) -> TrafficPlan:
        plan = self._residency.plan
        if plan is None:
            raise NotReady("no traffic plan yet: no bundle is stable; publish one and promote it")
        return plan
