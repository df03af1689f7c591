"""Copies requests to shadows' bundles after their users were answered, and records both answers.

Users come first: what does not fit beside them is dropped and counted. Nothing here raises into
the live path; telemetry, deadline and queue are its own. The only writer of `shadow` events.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Protocol

from recsys.errors import DeadlineExceeded
from recsys.events import new_event_id
from recsys.settings import ServeSettings
from recsys.shadow_plan import ShadowPlan
from serve_app.asks import Answer, Ask
from serve_app.log_writer import LogWriter
from serve_app.micro_batch import IsLive
from serve_app.residents.bundle_loading import GatewayBundle
from serve_app.shadowing.copy_rules import (
    Copy,
    Dropped,
    LiveLoad,
    is_comparable,
    recent_ms,
    shadow_ask,
    why_crowded_out,
)
from serve_app.shadowing.pace import Pace
from serve_app.shadowing.shadow_events import pipeline_ms, shadow_event
from serve_app.stages.placement import BundleMiss
from serve_app.telemetry import Telemetry

logger = logging.getLogger("ray.serve")

MAX_BATCH = 8
"""Copies answered together at most: stages inside the gateway hold users up for so long."""
WARN_EVERY_S = 10.0


class Answering(Protocol):
    """How a batch is answered: `Pipeline.answer`, and tests' own."""

    def __call__(
        self, bundle: GatewayBundle, asks: Sequence[Ask], is_live: IsLive, *, may_miss: bool
    ) -> Awaitable[Sequence[Answer | Exception]]:
        """See `Pipeline.answer`."""


class ShadowTraffic:
    """The shadows of one gateway replica; on its loop, but for `stop`.

    Args:
        plans: the running shadows.
        find: a bundle that can answer here, or None.
        answer: answers a batch; what it counts must not be counted as live.
        live_load: how busy the gateway is with users.
    """

    def __init__(
        self,
        plans: Callable[[], tuple[ShadowPlan, ...]],
        find: Callable[[str], GatewayBundle | None],
        answer: Answering,
        live_load: Callable[[], LiveLoad],
        log: LogWriter,
        settings: ServeSettings,
        telemetry: Telemetry,
        *,
        clock: Callable[[], float] = time.monotonic,
        new_id: Callable[[], str] = new_event_id,
    ) -> None:
        self._plans = plans
        self._find = find
        self._answer = answer
        self._live_load = live_load
        self._log = log
        self._settings = settings
        self._telemetry = telemetry
        self._clock = clock
        self._new_id = new_id
        self._deadline_s = settings.shadow_deadline_ms / 1000
        self._pace = Pace(settings.shadow_time_share)
        self._queue: deque[Copy] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._live_ms = 0.0
        self._is_drain_due = False
        self._alarm: asyncio.TimerHandle | None = None
        self._is_stopped = False
        self._warn_again_s = 0.0

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._queue and not self._running and not self._is_drain_due

    def offer(self, live: Answer, assigned_bundle_id: str) -> None:
        """Copy a request whose answer was sent, where a shadow wants it and there is room.

        Args:
            assigned_bundle_id: the bundle that was to answer it.
        """
        try:
            self._live_ms = recent_ms(self._live_ms, pipeline_ms(live))
            for plan in self._plans():
                if is_comparable(live, assigned_bundle_id, plan) and plan.copies(
                    live.ask.request_id
                ):
                    self._take_in(Copy(plan, live, self._clock()))
            self._schedule()
        except Exception as error:
            self._drop(Dropped.FAULT)
            self._warn("a request cannot be copied", error)

    def stop(self) -> None:
        """Copy and record nothing from now on; what runs ends unrecorded."""
        self._is_stopped = True

    def _take_in(self, copy: Copy) -> None:
        dropped = Dropped.LIVE_DEGRADED if copy.live.degraded else self._why_not(copy)
        if dropped is None and len(self._queue) >= self._settings.shadow_queued:
            dropped = Dropped.QUEUE_FULL
        if dropped is not None:
            self._drop(dropped)
            return
        self._queue.append(copy)

    def _why_not(self, copy: Copy) -> Dropped | None:
        """Why this copy may not be answered, seen when it comes and again when it begins."""
        if self._is_stopped:
            return Dropped.STOPPED
        if copy.plan not in self._plans():
            return Dropped.ENDED
        if self._find(copy.plan.bundle_id) is None:
            return Dropped.NOT_RESIDENT
        if self._clock() - copy.offered_s > self._deadline_s:
            return Dropped.LATE
        return why_crowded_out(
            self._live_load(),
            live_ms=self._live_ms,
            deadline_ms=self._settings.deadline_ms,
            has_log_room=self._log.has_room,
        )

    def _schedule(self) -> None:
        # One turn of the loop later: a live batch answered at once is copied together, and where
        # it was the last one, nothing of a user's is under way by then.
        if self._queue and not self._is_drain_due and self._has_slot():
            self._is_drain_due = True
            asyncio.get_running_loop().call_soon(self._drain)

    def _has_slot(self) -> bool:
        return len(self._running) < self._settings.shadow_in_flight

    def _drain(self) -> None:
        self._is_drain_due = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        while self._queue and self._has_slot():
            is_answering = self._live_load().is_answering
            if rest_s := self._pace.rest_s(self._clock(), is_answering=is_answering):
                loop = asyncio.get_running_loop()
                self._alarm = loop.call_later(rest_s, self._schedule)
                return
            batch = self._next_batch()
            if batch:
                task = asyncio.get_running_loop().create_task(self._run(batch))
                self._running.add(task)
                task.add_done_callback(partial(self._finished, self._clock()))

    def _next_batch(self) -> list[Copy]:
        """The copies that can be answered with the first one; those that may not are dropped."""
        key = self._queue[0].key
        batch: list[Copy] = []
        rest: deque[Copy] = deque()
        for copy in self._queue:
            if copy.key != key or len(batch) == MAX_BATCH:
                rest.append(copy)
            elif (dropped := self._why_not(copy)) is not None:
                self._drop(dropped)
            else:
                batch.append(copy)
        self._queue = rest
        return batch

    def _finished(self, begun_s: float, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._pace.ended(begun_s, self._clock())
        if not task.cancelled() and (error := task.exception()) is not None:
            self._drop(Dropped.FAULT)
            self._warn("shadow answers cannot be recorded", error)
        self._schedule()

    async def _run(self, batch: list[Copy]) -> None:
        begun_s = self._clock()
        bundle = self._find(batch[0].plan.bundle_id)
        if bundle is None or self._is_stopped:
            for _ in batch:
                self._drop(Dropped.STOPPED if self._is_stopped else Dropped.NOT_RESIDENT)
            return
        try:
            outcomes = await self._answers(bundle, batch, begun_s)
        except Exception as error:
            if len(batch) > 1:
                # One copy at fault fails no other.
                for copy in batch:
                    await self._run([copy])
                return
            self._warn(f"shadow {batch[0].plan.shadow_id} failed a request", error)
            outcomes = [error]
        elapsed_ms = (self._clock() - begun_s) * 1000
        for copy, outcome in zip(batch, outcomes, strict=True):
            self._record(copy, outcome, elapsed_ms)

    async def _answers(
        self, bundle: GatewayBundle, batch: list[Copy], begun_s: float
    ) -> Sequence[Answer | Exception]:
        asks = [shadow_ask(copy, begun_s + self._deadline_s) for copy in batch]
        try:
            async with asyncio.timeout(self._deadline_s):
                return await self._answer(bundle, asks, self._still_wanted, may_miss=True)
        except TimeoutError:
            return [DeadlineExceeded("the shadow's deadline passed") for _ in asks]

    def _still_wanted(self, _: int) -> bool:
        return not self._is_stopped

    def _record(self, copy: Copy, outcome: Answer | Exception, elapsed_ms: float) -> None:
        if self._is_stopped:
            self._drop(Dropped.STOPPED)
            return
        if isinstance(outcome, BundleMiss):
            self._drop(Dropped.MISSED)
            return
        event = shadow_event(copy, outcome, elapsed_ms, self._new_id())
        if not (self._log.has_room and self._log.offer(event)):
            self._drop(Dropped.LOG_FULL)
            return
        self._telemetry.count("flywheel_shadow_answers", status=str(event.status))
        self._telemetry.observe("flywheel_shadow_latency_ms", event.shadow_ms)

    def _drop(self, why: Dropped) -> None:
        self._telemetry.count("flywheel_shadow_dropped", reason=str(why))

    def _warn(self, what: str, error: BaseException) -> None:
        now_s = self._clock()
        if now_s >= self._warn_again_s:
            self._warn_again_s = now_s + WARN_EVERY_S
            logger.warning("%s: %r", what, error, exc_info=error)
