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
from recsys.experiment_plan import NO_EXPERIMENTS, Experiments
from recsys.settings import Settings
from recsys.shadow_plan import ShadowPlan
from recsys.stores.control.control import ControlReader, ControlView, ReadinessReporter
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
        self._experiments = NO_EXPERIMENTS
        self._shadows: tuple[ShadowPlan, ...] = ()
        self._beside: tuple[str, ...] = ()
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
    def stable_id(self) -> str | None:
        """The bundle that is to answer users, held here or not; None before there is a plan."""
        plan = self._watch.view.plan if self._watch.view is not None else None
        return None if plan is None else stable_arm(plan).bundle_id

    @property
    def experiments(self) -> Experiments:
        """The running experiments; their bundles may not be here yet."""
        return self._experiments

    @property
    def shadows(self) -> tuple[ShadowPlan, ...]:
        """The running shadows; their bundles may not be here yet."""
        return self._shadows

    @property
    def beside(self) -> tuple[str, ...]:
        """What shadows and experiments need: held where it can be, waited for by nobody."""
        return self._beside

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

        Returns once every bundle that may answer users at the start is ready or refused, so that
        a replica takes no call before it can answer. No shadow is waited for.
        """
        self._bundles.start()
        deadline_s = time.monotonic() + FIRST_VIEW_TIMEOUT_S
        self._watch.poll()
        while self._watch.view is None and time.monotonic() < deadline_s:
            time.sleep(0.5)
            self._watch.poll()
        self._watch.start()
        self._bundles.wait_until_settled(SETTLE_TIMEOUT_S, self._spared)

    def stop(self) -> None:
        """Stop polling and loading, and take this replica's readiness back."""
        self._watch.stop()
        self._bundles.stop()
        try:
            self._reporter.forget(self._replica_id)
        except (RecsysError, OSError) as error:
            logger.warning("readiness of %s could not be taken back: %s", self._replica_id, error)

    def _spared(self) -> frozenset[str]:
        """What no user is answered by."""
        view = self._watch.view or ControlView()
        return frozenset(view.beside).difference(answering(view))

    def _follow(self, view: ControlView) -> None:
        self._bundles.require((*answering(view), *view.beside))
        self._experiments, self._shadows = view.experiments, view.shadows
        self._beside = view.beside
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


def answering(view: ControlView) -> tuple[str, ...]:
    """The bundles that answer users, or may at any time."""
    planned = view.plan.bundle_ids if view.plan is not None else ()
    return (*view.required, *planned, *view.experiments.bundle_ids)


def stable_arm(plan: TrafficPlan) -> Arm:
    """The arm of stable, which answers for any other that cannot."""
    return next((arm for arm in plan.arms if arm.variant == STABLE), plan.arms[0])
