"""The controller on a real control store, with a fleet, clock and verdicts of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from cluster.rollouts.deciding.rollout_plan import PlanStep, RolloutPlan
from cluster.rollouts.deciding.rollout_record import Phase, Reason, Rollout
from cluster.rollouts.deciding.rollout_turn import Turn, Verb, decide, replay
from cluster.rollouts.driving import controller as controller_module
from cluster.rollouts.driving.controller import BUSY_S, Controller, Moved
from cluster.rollouts.driving.controller_lease import LEASE_MS, ControllerLease
from cluster.rollouts.driving.rollout_actions import FleetControl, Operator
from cluster.rollouts.storing.control_writer import ControlWriter, Fence, StoredRollout
from recsys.errors import StoreError
from recsys.evidence.comparison import Verdict
from recsys.evidence.judgement import Judgement
from recsys.evidence.metric_rules import METRICS
from recsys.settings import ServeSettings, Settings
from recsys.stores.control import ControlReader, ReadinessReporter
from recsys.traffic import BASELINE, CANARY, TrafficPlan

PLAN = RolloutPlan(
    "two",
    (PlanStep(0.05, metrics=("ctr",)), PlanStep(0.5, metrics=("ctr",))),
    (METRICS["ctr"],),
)


class Killed(BaseException):
    """The controller's process ends here."""


@dataclass
class Evidence:
    """What the evidence says at each step; it can be away."""

    verdicts: list[Verdict]
    is_away: bool = False

    def totals(self, rollout: Rollout) -> dict[str, Any]:
        """Nothing was counted before."""
        if self.is_away:
            raise StoreError("evidence store cannot be used: no disk")
        return {"since_ms": 0, "arms": {}}

    def samples(self, rollout: Rollout) -> dict[str, Any]:
        """What `judged` decides on: the rollout's step."""
        if self.is_away:
            raise StoreError("evidence store cannot be used: no disk")
        return {BASELINE: rollout.step, CANARY: self.verdicts}


def judged(rules: Any, baseline: Any, canary: Any, **limits: Any) -> Judgement:
    """The verdict of the step."""
    return Judgement(canary[baseline], "ctr", f"{canary[baseline]} by ctr", (), None, {})


@dataclass
class Fleet:
    """A control store with b1 stable, one gateway that polls it, and a clock."""

    folder: Path
    evidence: Evidence
    now_ms: int = 1_700_000_000_000
    epochs: list[int] = field(default_factory=list)
    """The plan epoch the gateway followed at each poll."""
    told: list[Moved] = field(default_factory=list)
    store_calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.settings = Settings(
            data_dir=self.folder, serve=ServeSettings(placement="fused", keep_resident=1)
        )
        self.url = self.settings.control_url
        self.writer, self.reader = ControlWriter(self.url), ControlReader(self.url)
        self._reporter = ReadinessReporter(self.url)
        self.writer.set_required(("b1",), ())
        self.writer.set_plan(TrafficPlan.single("b1", 1, "s"), 0)
        self.writer.set_alias("stable", "b1", None)
        self.poll(0)

    def poll(self, seconds: float = BUSY_S) -> None:
        """Time passes, and the gateway reads and reports."""
        self.now_ms += round(seconds * 1000)
        view = self.reader.view()
        assert view.plan is not None
        assert set(view.plan.bundle_ids) <= set(view.required), "traffic on what is not loaded"
        self.epochs.append(view.plan.epoch)
        states = {name: ("ready", "") for name in view.required}
        self._reporter.report("g", "gateway", states, view.plan.epoch, self.now_ms)

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

    def controller(self, name: str = "one", faults: Faults | None = None) -> Controller:
        """A controller's process; `faults` stands between it and the store."""
        operator = Operator(name, lambda: self.now_ms, self.poll, lambda line: None)
        lease: Any = ControllerLease(self.url)
        writer: Any = ControlWriter(self.url)
        reader: Any = ControlReader(self.url)
        if faults is not None:
            lease, writer, reader = (Faulty(one, faults) for one in (lease, writer, reader))
        control = FleetControl(self.settings, writer, reader, operator)
        return Controller(writer, control, lease, self.evidence, operator, self.told.append)  # type: ignore[arg-type]

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
        return ended, view.plan.bundle_ids, view.required, view.aliases


@dataclass
class Faults:
    """What the n-th call of the store meets; the store is away while `is_away` says so."""

    at: int = 0
    is_away: Callable[[], bool] = lambda: False
    calls: int = 0
    """Writes so far; a kill at a read is one after the write before it."""


WRITES = {"take", "touch_rollout", "save_rollout", "set_plan", "set_required", "set_alias"}


class Faulty:
    """A store whose calls are counted and can fail or kill."""

    def __init__(self, store: Any, faults: Faults) -> None:
        self._store = store
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        attribute, faults = getattr(self._store, name), self._faults

        def call(*arguments: Any, **options: Any) -> Any:
            is_write = name in WRITES
            faults.calls += is_write
            if faults.is_away():
                raise StoreError("control store cannot be used: connection refused")
            if is_write and faults.calls == faults.at:
                raise Killed
            return attribute(*arguments, **options)

        return call


@pytest.fixture(autouse=True)
def _verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(controller_module, "judge", judged)


def a_fleet(folder: Path, *verdicts: Verdict) -> Fleet:
    """A fleet whose evidence says this, step by step."""
    return Fleet(folder, Evidence(list(verdicts)))


PASSING = (Verdict.PASS, Verdict.PASS)
FAILING = (Verdict.PASS, Verdict.FAIL)


def test_evidence_that_passes_promotes_step_by_step(tmp_path: Path) -> None:
    """Every move is recorded with its inputs, and decides the same when decided again."""
    fleet = a_fleet(tmp_path, *PASSING)
    fleet.start()
    rollout = fleet.run(fleet.controller())
    assert (rollout.phase, rollout.is_closed) == (Phase.PROMOTED, True)
    view = fleet.reader.view()
    assert (view.aliases, view.required) == ({"stable": "b2"}, ("b2", "b1"))
    turns = fleet.writer.turns("r1")
    assert replay(turns) == ()
    assert [one.number for one in turns] == list(range(1, len(turns) + 1))
    judgements = [one.turn.judgement.verdict for one in turns if one.turn.judgement]
    assert judgements == [Verdict.PASS, Verdict.PASS]
    places = [(one.after.phase, one.after.step) for one in fleet.told if one.before is not None]
    assert places[0] == (Phase.PREPARING, 0)
    assert rollout.opening == {"since_ms": 0, "arms": {}}


def test_evidence_that_fails_aborts_with_its_message(tmp_path: Path) -> None:
    """All traffic is back on stable, and the bundle is let go."""
    fleet = a_fleet(tmp_path, *FAILING)
    fleet.start()
    rollout = fleet.run(fleet.controller())
    assert (rollout.phase, rollout.reason) == (Phase.ABORTED, Reason.EVIDENCE)
    assert rollout.message == "step 2 of 2 failed: fail by ctr"
    assert rollout.judgement == judged((), 1, FAILING).to_json()
    view = fleet.reader.view()
    assert view.plan is not None
    assert (view.plan.bundle_ids, view.required) == (("b1",), ("b1",))
    assert replay(fleet.writer.turns("r1")) == ()


@pytest.mark.parametrize("is_away", [True, False])
def test_no_evidence_holds_however_long_and_does_not_fill_the_store(
    tmp_path: Path, is_away: bool
) -> None:
    """Undecided, or the evidence store away: the step is what it was after twenty minutes."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE)
    fleet.start()
    controller = fleet.controller()
    fleet.run(controller, turns=6)
    fleet.evidence.is_away = is_away
    before = len(fleet.writer.turns("r1"))
    for _ in range(40):
        fleet.poll(30)
        controller.turn()
        fleet.poll()
    stored = fleet.writer.open_rollout()
    assert stored is not None
    assert (stored.rollout.phase, stored.rollout.step) == (Phase.CANARY, 0)
    assert ("no disk" in stored.rollout.message) == is_away
    assert len(fleet.writer.turns("r1")) - before <= 40
    assert replay(fleet.writer.turns("r1")) == ()


CALM: dict[tuple[Verdict, ...], tuple[Any, Any]] = {
    PASSING: ((Phase.PROMOTED, 2, Reason.FOLLOWED, "every gateway follows", True), ("b2",)),
    FAILING: (
        (Phase.ABORTED, 1, Reason.EVIDENCE, "step 2 of 2 failed: fail by ctr", True),
        ("b1",),
    ),
}
"""How a rollout ends, and what answers then, where nothing dies."""


@pytest.mark.parametrize(
    ("verdicts", "number"),
    [*((PASSING, number) for number in range(1, 21)), *((FAILING, n) for n in range(1, 19))],
)
def test_a_controller_killed_before_any_write_changes_nothing_in_the_end(
    tmp_path: Path, verdicts: tuple[Verdict, ...], number: int
) -> None:
    """The next one ends in the same state, and no gateway ever sees an older plan.

    The last numbers lie beyond the last write, so that every write is among them.
    """
    fleet = a_fleet(tmp_path, *verdicts)
    fleet.start()
    faults = Faults(number)
    try:
        fleet.run(fleet.controller("dying", faults))
    except Killed:
        fleet.poll(LEASE_MS / 1000 + 1)
    else:
        assert faults.calls == number - 1, "every write was met"
    fleet.run(fleet.controller("next"))
    ended, answers, required, aliases = fleet.outcome()
    assert (ended, answers) == CALM[verdicts]
    assert required == (("b2", "b1") if answers == ("b2",) else ("b1",))
    assert aliases == {"stable": answers[0]}
    assert fleet.epochs == sorted(fleet.epochs)
    assert replay(fleet.writer.turns("r1")) == ()


def test_two_controllers_at_once_end_as_one_does(tmp_path: Path) -> None:
    """Even where both believe that they hold the lease."""
    calm = a_fleet(tmp_path / "calm", *PASSING)
    calm.start()
    calm.run(calm.controller())
    fleet = a_fleet(tmp_path / "two", *PASSING)
    fleet.start()
    both = fleet.controller("one"), fleet.controller("two")
    for controller in both:
        controller._has_lease = lambda: True  # type: ignore[method-assign]
        controller._is_mine = lambda stored: True  # type: ignore[method-assign]
    fleet.run(*both)
    assert fleet.outcome() == calm.outcome()
    assert fleet.epochs == sorted(fleet.epochs)


def test_one_holds_the_lease_and_another_follows_when_it_falls_silent(tmp_path: Path) -> None:
    """Or at once, when it lets go."""
    fleet = a_fleet(tmp_path, *PASSING)
    lease = ControllerLease(fleet.url)
    assert not lease.is_held(fleet.now_ms)
    assert lease.take("one", fleet.now_ms)
    assert not lease.take("two", fleet.now_ms + LEASE_MS - 1)
    assert lease.is_held(fleet.now_ms + LEASE_MS - 1)
    assert lease.take("two", fleet.now_ms + LEASE_MS)
    lease.give_back("one")
    assert not lease.take("one", fleet.now_ms + LEASE_MS)
    lease.give_back("two")
    assert lease.take("one", fleet.now_ms + LEASE_MS)
    assert lease.take("two", fleet.now_ms - 2 * LEASE_MS), "a clock that was set back frees it"


def test_a_control_store_that_is_away_for_a_minute_is_waited_for(tmp_path: Path) -> None:
    """The gateways keep their plan, and the rollout goes on where it was."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE, Verdict.PASS)
    fleet.start()
    ends_ms = [0]
    controller = fleet.controller("one", Faults(is_away=lambda: fleet.now_ms < ends_ms[0]))
    fleet.run(controller, turns=10)
    plan = fleet.reader.view().plan
    ends_ms[0] = fleet.now_ms + 60_000
    while fleet.now_ms < ends_ms[0]:
        with pytest.raises(StoreError, match="connection refused"):
            controller.turn()
        fleet.poll(5)
        assert fleet.reader.view().plan == plan
    fleet.evidence.verdicts[0] = Verdict.PASS
    assert fleet.run(controller).phase is Phase.PROMOTED
    assert fleet.epochs == sorted(fleet.epochs)


def test_an_operator_who_drives_is_left_alone_and_one_who_left_is_followed(
    tmp_path: Path,
) -> None:
    """An instant rollout too."""
    fleet = a_fleet(tmp_path)
    started = fleet.start(RolloutPlan("instant"))
    fleet.writer.touch_rollout(Fence("r1", started.revision), "ann", fleet.now_ms)
    controller = fleet.controller()
    controller.turn()
    assert fleet.writer.open_rollout() == StoredRollout(started.rollout, 1, "ann", fleet.now_ms)
    fleet.poll(11)
    assert fleet.run(controller).phase is Phase.PROMOTED


@pytest.mark.parametrize("verb", [Verb.PAUSE, Verb.SKIP, Verb.PROMOTE, Verb.ABORT])
def test_an_operators_word_is_what_the_controller_goes_on_from(tmp_path: Path, verb: Verb) -> None:
    """Between any of its turns."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE, Verdict.INCONCLUSIVE)
    fleet.start()
    controller = fleet.controller()
    fleet.run(controller, turns=10)
    stored = fleet.writer.open_rollout()
    assert stored is not None
    operator = Operator("ann", lambda: fleet.now_ms, fleet.poll, lambda line: None)
    seen = FleetControl(fleet.settings, fleet.writer, fleet.reader, operator).observe(
        stored.rollout
    )
    turn = Turn(verb, seen.now_ms, seen, None, Reason.FORCED, "ann says so")
    said = decide(stored.rollout, turn)
    fleet.writer.save_rollout(said, stored.revision, "ann", fleet.now_ms, turn=turn, driven_ms=0)
    rollout = fleet.run(controller, turns=10)
    places = {
        Verb.PAUSE: (Phase.PAUSED, 0),
        Verb.SKIP: (Phase.CANARY, 1),
        Verb.PROMOTE: (Phase.PROMOTED, 2),
        Verb.ABORT: (Phase.ABORTED, 0),
    }
    assert (rollout.phase, rollout.step) == places[verb]
    assert replay(fleet.writer.turns("r1")) == ()
    assert "ann says so" in [entry.why for entry in fleet.writer.history()]


def test_an_abort_reaches_the_gateways_with_their_next_poll(tmp_path: Path) -> None:
    """One turn records it, the next sets the plan; then a poll of a second is all there is."""
    fleet = a_fleet(tmp_path, Verdict.INCONCLUSIVE)
    fleet.start()
    controller = fleet.controller()
    fleet.run(controller, turns=10)
    fleet.evidence.verdicts[0] = Verdict.FAIL
    failed_ms = fleet.now_ms
    while True:
        fleet.now_ms += round(1000 * controller.turn())
        plan = fleet.reader.view().plan
        assert plan is not None
        if plan.bundle_ids == ("b1",):
            break
    assert fleet.now_ms - failed_ms + 1000 * fleet.settings.serve.plan_poll_s <= 2_000
