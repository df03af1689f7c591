"""Joins the polled plan and the resident bundles of one replica, and reports its readiness.

The only writer of this replica's readiness rows in the control store.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.stores.control import ControlReader, ControlView, ReadinessReporter
from recsys.traffic import STABLE, Arm, TrafficPlan
from serve_app.residents.plan_watch import PlanWatch
from serve_app.residents.resident import ResidentBundles

logger = logging.getLogger("ray.serve")

T = TypeVar("T")

FIRST_VIEW_TIMEOUT_S = 30.0
SETTLE_TIMEOUT_S = 600.0


class Residency(Generic[T]):
    """The bundles this replica must hold, held.

    Args:
        stage: the stage name it reports under.
        replica_id: unique among replicas and their restarts.
        load: loads, checks and warms one bundle.
        after_poll: called in the polling thread after each poll, once bundles are required.
    """

    def __init__(
        self,
        settings: Settings,
        stage: str,
        replica_id: str,
        load: Callable[[str], T],
        after_poll: Callable[[], None] = lambda: None,
    ) -> None:
        self._stage = stage
        self._replica_id = replica_id
        self._after_poll = after_poll
        self._plan: TrafficPlan | None = None
        self._reporter = ReadinessReporter(settings.control_url)
        self._watch = PlanWatch(
            ControlReader(settings.control_url).view,
            self._follow,
            settings.serve.plan_poll_s,
            random.Random(replica_id),
        )
        self._bundles = ResidentBundles(
            load,
            unload_after_s=settings.serve.deadline_ms / 1000 + 2 * settings.serve.plan_poll_s,
            clock=time.monotonic,
            on_change=self._watch.wake,
        )

    @property
    def plan(self) -> TrafficPlan | None:
        """The traffic plan this replica follows: the newest whose stable bundle it holds."""
        return self._plan

    @property
    def bundle_ids(self) -> tuple[str, ...]:
        """What is resident now."""
        return self._bundles.bundle_ids

    def get(self, bundle_id: str) -> T | None:
        """A resident bundle, or None."""
        return self._bundles.get(bundle_id)

    def peek(self, bundle_id: str) -> T | None:
        """A resident bundle, without counting as a use of it."""
        return self._bundles.peek(bundle_id)

    def states(self) -> dict[str, tuple[str, str]]:
        """State and reason of every bundle this replica should or does hold."""
        return self._bundles.states()

    def start(self) -> None:
        """Poll once, load what is required, and go on in the background.

        Returns once every bundle required at the start is ready or refused, so that a replica
        takes no call before it can answer.
        """
        self._bundles.start()
        deadline_s = time.monotonic() + FIRST_VIEW_TIMEOUT_S
        self._watch.poll()
        while self._watch.view is None and time.monotonic() < deadline_s:
            time.sleep(0.5)
            self._watch.poll()
        self._watch.start()
        self._bundles.wait_until_settled(SETTLE_TIMEOUT_S)

    def stop(self) -> None:
        """Stop polling and loading, and take this replica's readiness back."""
        self._watch.stop()
        self._bundles.stop()
        try:
            self._reporter.forget(self._replica_id)
        except (RecsysError, OSError) as error:
            logger.warning("readiness of %s could not be taken back: %s", self._replica_id, error)

    def _follow(self, view: ControlView) -> None:
        planned = view.plan.bundle_ids if view.plan is not None else ()
        self._bundles.require((*view.required, *planned))
        self._adopt(view.plan)
        self._after_poll()
        epoch = self._plan.epoch if self._plan is not None else 0
        now_ms = int(time.time() * 1000)
        try:
            self._reporter.report(
                self._replica_id, self._stage, self._bundles.states(), epoch, now_ms
            )
        except (RecsysError, OSError) as error:
            # The poll that read this view already told of a store that is away.
            logger.info("readiness of %s could not be reported: %s", self._replica_id, error)
        else:
            self._bundles.reported()

    def _adopt(self, plan: TrafficPlan | None) -> None:
        """Follow a plan once its main bundle is here; until then the one before answers."""
        if plan is None:
            return
        if self._plan is None or self._bundles.peek(stable_arm(plan).bundle_id) is not None:
            self._plan = plan


def stable_arm(plan: TrafficPlan) -> Arm:
    """The arm of stable, which answers for any other that cannot."""
    return next((arm for arm in plan.arms if arm.variant == STABLE), plan.arms[0])
