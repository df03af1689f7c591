"""From a request to the bundle that answers it: the plan's arm, its batch, and the way back to
stable when a stage lacks the bundle.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence

from recsys.errors import DeadlineExceeded
from recsys.settings import ServeSettings
from recsys.traffic import STABLE, Arm, TrafficPlan
from serve_app.asks import Answer, Ask
from serve_app.http.problems import NotReady
from serve_app.http.recommend_requests import RecommendRequest
from serve_app.micro_batch import IsLive, MicroBatcher
from serve_app.pipeline import Pipeline
from serve_app.residents.bundle_loading import GatewayBundle, LoadedBundle
from serve_app.residents.residency import Residency, stable_arm
from serve_app.stages.explaining import Explainer
from serve_app.stages.placement import BundleMiss, StageClient
from serve_app.stages.reach import unreachable_stage


class Recommender:
    """Answers single requests.

    Args:
        residency: the plan and the gateway's own part of each bundle.
        stages: a client per stage name, to probe bundles with.
    """

    def __init__(
        self,
        residency: Residency[LoadedBundle],
        pipeline: Pipeline,
        stages: Mapping[str, StageClient],
        settings: ServeSettings,
        explainer: Explainer,
    ) -> None:
        self._residency = residency
        self._pipeline = pipeline
        self._explainer = explainer
        self._stages = stages
        self._settings = settings
        self._batchers: dict[str, MicroBatcher[Ask, Answer]] = {}
        self._reached: set[str] = set()

    @property
    def plan(self) -> TrafficPlan | None:
        """The plan in force here."""
        return self._residency.plan

    def assign(self, user_id: str) -> Arm:
        """The arm that answers a user.

        Raises:
            NotReady: there is no plan yet.
        """
        plan = self._residency.plan
        if plan is None:
            raise NotReady("no traffic plan yet: no bundle is stable; publish one and promote it")
        return plan.assign(user_id)

    async def recommend(
        self, request: RecommendRequest, request_id: str, arm: Arm, received_at_ms: int
    ) -> Answer:
        """Answer with the arm's bundle, or with stable's if a stage lacks that one.

        Raises:
            DeadlineExceeded: no answer in time.
            Overloaded: no bundle or no source can answer.
        """
        deadline_ms = request.deadline_ms or self._settings.deadline_ms
        expires_at_s = time.monotonic() + deadline_ms / 1000
        try:
            async with asyncio.timeout(deadline_ms / 1000):
                try:
                    experiment = self.experiment_of(arm)
                    ask = Ask(
                        request, request_id, arm.variant, received_at_ms, expires_at_s, experiment
                    )
                    return await self._submit(arm.bundle_id, ask)
                except BundleMiss:
                    stable = self._stable()
                    ask = Ask(request, request_id, stable.variant, received_at_ms, expires_at_s)
                    return await self._submit(stable.bundle_id, ask)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"no answer within {deadline_ms} ms; allow more with deadline_ms, or send less load"
            ) from error

    async def probe(self) -> None:
        """Try the stages of planned bundles not reached so far, and forget batchers of old ones."""
        plan = self._residency.plan
        for bundle_id in plan.bundle_ids if plan else ():
            bundle = self._find(bundle_id)
            if bundle is None or bundle_id in self._reached:
                continue
            timeout_s = self._settings.stage_timeout_ms / 1000
            if await unreachable_stage(self._stages, bundle, timeout_s) is None:
                self._reached.add(bundle_id)
        resident = set(self._residency.bundle_ids)
        self._reached &= resident
        for bundle_id, batcher in list(self._batchers.items()):
            if bundle_id not in resident and batcher.is_idle:
                del self._batchers[bundle_id]

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

    async def _submit(self, bundle_id: str, ask: Ask) -> Answer:
        bundle = self._find(bundle_id)
        if bundle is None:
            if ask.variant != STABLE:
                raise BundleMiss(f"the gateway does not hold bundle {bundle_id}")
            raise NotReady(f"bundle {bundle_id} is not loaded in the gateway yet; try again later")
        batcher = self._batchers.get(bundle_id)
        if batcher is None:
            batcher = self._batchers[bundle_id] = self._new_batcher(bundle)
        answer = await batcher.submit(ask)
        return await self._explainer.explain(answer) if ask.request.explain else answer

    def _new_batcher(self, bundle: GatewayBundle) -> MicroBatcher[Ask, Answer]:
        async def run(asks: Sequence[Ask], is_live: IsLive) -> Sequence[Answer | Exception]:
            may_miss = self._stable().bundle_id != bundle.bundle_id
            return await self._pipeline.answer(bundle, asks, is_live, may_miss=may_miss)

        return MicroBatcher(
            run,
            max_batch=self._settings.max_batch,
            max_in_flight=self._settings.max_batches_in_flight,
        )

    def experiment_of(self, arm: Arm) -> str | None:
        """What the answers of an arm are compared under; None where nobody compares them."""
        plan = self._residency.plan
        return None if plan is None else plan.experiment_of(arm.variant)

    def _find(self, bundle_id: str) -> GatewayBundle | None:
        loaded = self._residency.get(bundle_id)
        return None if loaded is None else loaded.gateway

    def _stable(self) -> Arm:
        plan = self._residency.plan
        if plan is None:
            raise NotReady("no traffic plan yet: no bundle is stable; publish one and promote it")
        return stable_arm(plan)
