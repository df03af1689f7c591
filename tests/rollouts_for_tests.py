"""A control store, a fleet that polls it and a clock, for tests of the controller."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cluster.rollouts.deciding.preparing import is_shadowing
from cluster.rollouts.deciding.rollout_plan import PlanStep, RolloutPlan
from cluster.rollouts.deciding.rollout_record import Phase, Rollout
from cluster.rollouts.driving.controller import BUSY_S, Controller, Moved
from cluster.rollouts.driving.controller_lease import ControllerLease
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.storing.control_writer import ControlWriter, StoredRollout
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.errors import StoreError
from recsys.evidence.comparison import Verdict
from recsys.evidence.judgement import Judgement
from recsys.evidence.metric_rules import METRICS
from recsys.evidence.shadow_sums_json import shadow_sums_from_json
from recsys.settings import ServeSettings, Settings
from recsys.stores.control import control_tables
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.traffic import BASELINE, CANARY, TrafficPlan

PLAN = RolloutPlan(
    "two",
    (PlanStep(0.05, metrics=("ctr",)), PlanStep(0.5, metrics=("ctr",))),
    (METRICS["ctr"],),
)


SHADOWED = replace(PLAN, shadow_requests=10)
"""The same, with answers compared before the first user."""
SHORT = replace(SHADOWED, steps=SHADOWED.steps[:1])
"""The same, with one step."""


def shadow_sums(n: int, n_failed: int = 0) -> dict[str, Any]:
    """Sums of so many copies, as recorded turns keep them."""
    n_compared = n - n_failed
    return {
        "n": n,
        "n_failed": n_failed,
        "n_degraded": 0,
        "n_compared": n_compared,
        "overlap": 0.7 if n_compared else None,
        "rbo": 0.6 if n_compared else None,
        "live_latency": [[10, n]] if n else [],
        "shadow_latency": [[12, n_compared]] if n_compared else [],
        "reasons": {"timeout": n_failed} if n_failed else {},
        "n_same_order": 0,
    }


class Killed(BaseException):
    """The controller's process ends here."""


@dataclass
class Evidence:
    """What the evidence says at each step; it can be away."""

    verdicts: list[Verdict]
    is_away: bool = False
    copies: dict[str, Any] = field(default_factory=lambda: shadow_sums(12))

    def shadow(self, shadow_id: str) -> Any:
        """What the copies came to."""
        if self.is_away:
            raise StoreError("evidence store cannot be used: no disk")
        return shadow_sums_from_json(self.copies)

    def check(self) -> None:
        """Whether it can be read."""
        if self.is_away:
            raise StoreError("evidence store cannot be used: no disk")

    def samples(self, rollout: Rollout) -> dict[str, Any]:
        """What `judged` decides on: the rollout's step."""
        if self.is_away:
            raise StoreError("evidence store cannot be used: no disk")
        return {BASELINE: rollout.step, CANARY: self.verdicts}


@dataclass
class Fleet:
    """A control store with b1 stable, one gateway that polls it, and a clock."""

    folder: Path
    evidence: Evidence
    now_ms: int = 1_700_000_000_000
    epochs: list[int] = field(default_factory=list)
    """The plan epoch the gateway followed at each poll."""
    told: list[Moved] = field(default_factory=list)
    away_until_ms: int = 0
    """Until then the control store cannot be used by anybody."""
    control_store_url: str = ""
    """Another store than the file in the folder."""

    def __post_init__(self) -> None:
        self.settings = Settings(
            data_dir=self.folder,
            control_store_url=self.control_store_url,
            serve=ServeSettings(placement="fused", keep_resident=1),
        )
        self.url = self.settings.control_url
        self.writer, self.reader = ControlWriter(self.url), ControlReader(self.url)
        self.shadows = ShadowWriter(self.url)
        self._reporter = ReadinessReporter(self.url)
        self.writer.set_required(("b1",), ())
        self.writer.set_plan(TrafficPlan.single("b1", 1, "s"), 0)
        self.writer.set_alias("stable", "b1", None)
        self.poll(0)

    def poll(self, seconds: float = BUSY_S) -> None:
        """Time passes, and the gateway reads and reports; without a store it keeps its plan."""
        self.now_ms += round(seconds * 1000)
        if self.now_ms < self.away_until_ms:
            self.epochs.append(self.epochs[-1])
            return
        view = self.reader.view()
        assert view.plan is not None
        assert set(view.plan.bundle_ids) <= set(view.required), "traffic on what is not loaded"
        self._check_shares(view.plan)
        for shadow in view.shadows:
            assert shadow.bundle_id in view.required, "copies to what is not loaded"
        self.epochs.append(view.plan.epoch)
        states = {name: ("ready", "") for name in view.required}
        self._reporter.report("g", "gateway", states, view.plan.epoch, self.now_ms)

    def _check_shares(self, plan: TrafficPlan) -> None:
        """No user has more of the canary than the record allows, and none before the copies."""
        found = self.writer.rollouts()
        share = sum(arm.share for arm in plan.arms if arm.bundle_id == "b2")
        if not found:
            assert share == 0.0
            return
        rollout = found[-1].rollout
        allowed = {Phase.PROMOTING: 1.0, Phase.PROMOTED: 1.0}.get(rollout.phase, 0.0)
        if rollout.phase in {Phase.CANARY, Phase.PAUSED}:
            allowed = rollout.steps[rollout.step]
        # What the record takes back is taken back by the next action.
        assert share <= allowed or not rollout.is_settled
        is_early = rollout.phase in {Phase.STARTING, Phase.PREPARING}
        assert not (is_early and share), "users before the comparison is over"
        if rollout.is_settled and not is_shadowing(rollout):
            assert self.reader.view().shadows == (), "copies go on"

    def start(self, plan: RolloutPlan = PLAN) -> StoredRollout:
        """What `canary start` records for the controller."""
        rollout = Rollout(
            "r1",
            "b2",
            "b1",
            plan.name,
            plan.shares,
            ("b1",),
            ("b2", "b1"),
            self.now_ms,
            60_000,
            self.now_ms,
            plan=plan,
        )
        return self.writer.start_rollout(rollout, "ann", self.now_ms, driven_ms=0)

    def controller(
        self,
        name: str = "one",
        faults: Faults | None = None,
        begin_scheduled: Callable[[], bool] = lambda: False,
    ) -> Controller:
        """A controller's process; `faults` stands between it and the stores."""
        operator = Operator(name, lambda: self.now_ms, self.poll, lambda line: None)
        stores: list[Any] = [
            ControllerLease(self.url),
            ControlWriter(self.url),
            ControlReader(self.url),
            ShadowWriter(self.url),
            self.evidence,
        ]
        if faults is not None:
            stores = [Faulty(one, faults) for one in stores]
        lease, writer, reader, shadows, evidence = stores
        control = FleetControl(self.settings, writer, reader, operator, shadows)
        return Controller(
            writer,
            control,
            lease,
            evidence,
            operator,
            self.told.append,
            evidence.shadow,
            begin_scheduled,
        )

    def run(self, *controllers: Controller, turns: int = 60) -> Rollout:
        """Turn about until the rollout is closed."""
        for number in range(turns):
            controllers[number % len(controllers)].turn()
            self.poll()
            if self.writer.open_rollout() is None:
                break
        return self.writer.rollouts()[-1].rollout

    def outcome(self) -> tuple[Any, ...]:
        """What is left in the store, without times and epochs."""
        view = self.reader.view()
        assert view.plan is not None
        rollout = self.writer.rollouts()[-1].rollout
        ended = rollout.phase, rollout.step, rollout.reason, rollout.message, rollout.is_closed
        shadows = [(one.record.shadow_id, one.record.is_closed) for one in self.shadows.all()]
        return ended, view.plan.bundle_ids, view.required, view.aliases, shadows


@dataclass
class Faults:
    """What meets the calls of the stores: counted, and `before` and `after` may raise or act."""

    before: Callable[[int, str], None] = lambda number, name: None
    after: Callable[[int, str], None] = lambda number, name: None
    calls: int = 0
    names: list[str] = field(default_factory=list)


class Faulty:
    """A store whose calls are counted and can fail or kill."""

    def __init__(self, store: Any, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        attribute, faults = getattr(self._store, name), self._faults

        def call(*arguments: Any, **options: Any) -> Any:
            faults.calls += 1
            number = faults.calls
            faults.names.append(name)
            faults.before(number, name)
            answer = attribute(*arguments, **options)
            faults.after(number, name)
            return answer

        return call


def judged(plan: Any, at: int, samples: Any) -> Judgement:
    """The verdict of the step."""
    found = samples[CANARY][samples[BASELINE]]
    return Judgement(found, "ctr", f"{found} by ctr", (), None, {})


def a_fleet(folder: Path, *verdicts: Verdict, control_store_url: str = "") -> Fleet:
    """A fleet whose evidence says this, step by step."""
    return Fleet(folder, Evidence(list(verdicts)), control_store_url=control_store_url)


OPEN = control_tables.open_engine


def without_waits(url: str, *, writes: bool, is_durable: bool = True) -> Any:
    """Processes die in these tests, and the machine does not: nothing waits for the disk."""
    return OPEN(url, writes=writes, is_durable=False)


PASSING = (Verdict.PASS, Verdict.PASS)
FAILING = (Verdict.PASS, Verdict.FAIL)
