"""Copies to shadows, with a fake for what answers: what is copied, dropped and recorded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from recsys.errors import Overloaded
from recsys.events import Event, ShadowAnswer
from recsys.settings import ServeSettings
from recsys.shadow_plan import ShadowPlan
from serve_app.asks import Answer, Ask, Chosen
from serve_app.asks import Dropped as DroppedItems
from serve_app.http.recommend_requests import RecommendRequest
from serve_app.log_writer import LogWriter
from serve_app.micro_batch import IsLive
from serve_app.residents.bundle_loading import GatewayBundle
from serve_app.shadowing.copy_rules import LiveLoad
from serve_app.shadowing.shadow_traffic import ShadowTraffic
from serve_app.stages.placement import BundleMiss
from serve_app.telemetry import Telemetry

LIVE, NEW = "live-1", "new-1"
PLAN = ShadowPlan("s1", NEW, 1.0)
Outcome = Callable[[Ask], Answer | Exception]


def an_answer(ask: Ask, bundle_id: str = LIVE, **changed: Any) -> Answer:
    """A slate of two."""
    shown = Chosen(["a", "b"], [2.0, 1.0], ["index"] * 2, [0.0] * 2, [0, 1], [0, 1])
    none = Chosen([], [], [], [], [], [])
    fields: dict[str, Any] = {
        "ask": ask, "bundle_id": bundle_id, "shown": shown, "propensities": [0.5, 0.25],
        "unshown": none, "dropped": DroppedItems([], [], [], [], 0), "explanations": None,
        "coverage": 1.0, "degraded": (), "history_version": 0, "history_items": (),
        "stage_ms": {"encode": 1.5, "score": 2.5},
    }  # fmt: skip
    return Answer(**(fields | changed))


def a_live_answer(request_id: str = "r1", **changed: Any) -> Answer:
    """What a user got."""
    request = RecommendRequest("u", 7, {"place": "home"}, ("x",), explain=True, deadline_ms=5)
    return an_answer(Ask(request, request_id, "stable", 1_000, 9.0, "e1", ("e1:a",)), **changed)


@dataclass
class Rig:
    """Shadow traffic of a gateway whose parts are at hand."""

    plans: tuple[ShadowPlan, ...] = (PLAN,)
    resident: set[str] = field(default_factory=lambda: {NEW})
    load: LiveLoad = field(default_factory=lambda: LiveLoad(0, is_full=False))
    outcome: Outcome = field(default_factory=lambda: lambda ask: an_answer(ask, NEW))
    settings: ServeSettings = field(default_factory=ServeSettings)
    max_log_queue: int = 1000
    now_s: float = 10.0
    seconds_a_batch: float = 0.0
    ticks: bool = False
    """Whether the clock goes on by itself, rather than as told."""
    written: list[Event] = field(default_factory=list)
    batches: list[list[Ask]] = field(default_factory=list)
    n_at_once: list[int] = field(default_factory=list)
    gate: asyncio.Event | None = None
    disk: threading.Event = field(default_factory=threading.Event)
    telemetry: Telemetry = field(default_factory=Telemetry)

    def append(self, events: Sequence[Event]) -> None:
        """The log, once its disk is there."""
        self.disk.wait(5)
        self.written += events

    async def answer(
        self, bundle: GatewayBundle, asks: Sequence[Ask], is_live: IsLive, *, may_miss: bool
    ) -> list[Answer | Exception]:
        """The pipeline."""
        assert may_miss
        self.batches.append(list(asks))
        self.n_at_once[-1:] = [self.n_at_once[-1] + 1]
        self.now_s += self.seconds_a_batch
        if self.gate is not None:
            await self.gate.wait()
        self.n_at_once.append(self.n_at_once[-1] - 1)
        return [self.outcome(ask) for ask in asks]

    def run(
        self,
        begin: Callable[[ShadowTraffic], None],
        meanwhile: Callable[[ShadowTraffic], None] | None = None,
    ) -> None:
        """Begin, wait until nothing is under way, and write all that was offered.

        Args:
            meanwhile: called once the first batch is being answered.
        """
        self.n_at_once.append(0)
        log = LogWriter(self, self.max_log_queue)
        traffic = ShadowTraffic(
            lambda: self.plans,
            lambda name: cast(GatewayBundle, name) if name in self.resident else None,
            self.answer,
            lambda: self.load,
            log,
            self.settings,
            self.telemetry,
            clock=lambda: self.now_s + (time.monotonic() if self.ticks else 0.0),
        )

        async def whole() -> None:
            begin(traffic)
            async with asyncio.timeout(5):
                while meanwhile is not None and not self.batches:
                    await asyncio.sleep(0)
                if meanwhile is not None:
                    meanwhile(traffic)
                while not traffic.is_idle:
                    await asyncio.sleep(0)

        try:
            asyncio.run(whole())
        finally:
            self.disk.set()
            log.close()

    def offering(self, *answers: Answer, assigned: str = LIVE) -> Rig:
        """Offer these at once and let all of it run."""

        def begin(traffic: ShadowTraffic) -> None:
            for answer in answers:
                traffic.offer(answer, assigned)

        self.run(begin)
        return self

    @property
    def events(self) -> list[ShadowAnswer]:
        """What was recorded."""
        return [event for event in self.written if isinstance(event, ShadowAnswer)]

    def dropped(self) -> dict[str, int]:
        """Copies dropped by reason."""
        counts = self.telemetry.take().counts
        return {dict(t)["reason"]: n for (name, t), n in counts.items() if "dropped" in name}


def answers(n: int) -> list[Answer]:
    """So many different requests, answered."""
    return [a_live_answer(f"r{number}") for number in range(n)]


def test_a_copy_asks_the_same_and_both_answers_are_recorded() -> None:
    """User, k, context, exclusions and time are the live ones; no explanation, another seed."""
    live = a_live_answer()
    rig = Rig().offering(live)
    ask, was = rig.batches[0][0], live.ask
    assert ask.request == replace(was.request, explain=False)
    assert (ask.received_at_ms, ask.variant, ask.experiment) == (1_000, "shadow", None)
    assert ask.experiments == () and ask.seed != was.seed and ask.expires_at_s == 11.0
    (event,) = rig.events
    assert event == ShadowAnswer(
        event_id=event.event_id, request_id="r1", user_id="u", timestamp_ms=1_000,
        shadow_id="s1", bundle_id=NEW, live_bundle_id=LIVE, status=200,
        live_items=("a", "b"), items=("a", "b"), propensities=(0.5, 0.25),
        live_ms=4.0, shadow_ms=4.0,
    )  # fmt: skip


def test_seeds_differ_between_shadows() -> None:
    """Two shadows of one request draw independently of each other."""
    rig = Rig(plans=(PLAN, ShadowPlan("s2", NEW, 1.0))).offering(a_live_answer())
    first, second = (batch[0] for batch in rig.batches)
    assert first.seed != second.seed
    assert {event.shadow_id for event in rig.events} == {"s1", "s2"}


def test_a_share_of_the_requests_is_copied() -> None:
    """The same ones that the plan names; the others leave no trace."""
    plan = ShadowPlan("s1", NEW, 0.3)
    rig = Rig(plans=(plan,), settings=ServeSettings(shadow_queued=1000)).offering(*answers(200))
    chosen = {f"r{n}" for n in range(200) if plan.copies(f"r{n}")}
    assert {event.request_id for event in rig.events} == chosen
    assert 40 < len(chosen) < 80 and rig.dropped() == {}


@pytest.mark.parametrize(
    ("answer", "assigned"),
    [
        (a_live_answer(bundle_id=LIVE), "canary-1"),
        (a_live_answer(bundle_id=NEW), NEW),
    ],
    ids=["a fallback", "the shadow's own bundle"],
)
def test_nothing_is_copied_that_would_say_nothing(answer: Answer, assigned: str) -> None:
    """Neither counted nor recorded: it is no loss."""
    rig = Rig().offering(answer, assigned=assigned)
    assert (rig.batches, rig.events, rig.dropped()) == ([], [], {})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"load": LiveLoad(3, is_full=True)}, "live waits"),
        ({"load": LiveLoad(0, is_full=True)}, "live full"),
        ({"resident": set()}, "not resident"),
    ],
)
def test_a_copy_gives_way_at_once(changes: dict[str, Any], reason: str) -> None:
    """It is dropped and counted with its reason, never kept for later."""
    rig = Rig(**changes).offering(a_live_answer())
    assert (rig.batches, rig.events, rig.dropped()) == ([], [], {reason: 1})


def test_half_an_answer_is_no_yardstick() -> None:
    """Its copies are counted as dropped, so that nobody wonders where they are."""
    rig = Rig().offering(a_live_answer(degraded=("scorer: timeout",)), a_live_answer("r2"))
    assert [event.request_id for event in rig.events] == ["r2"]
    assert rig.dropped() == {"live degraded": 1}


def test_the_queue_is_bounded_and_few_run_at_once() -> None:
    """Whatever is offered in one go beyond the queue is dropped."""
    settings = ServeSettings(shadow_queued=20, shadow_in_flight=2)
    rig = Rig(settings=settings).offering(*answers(50))
    assert rig.dropped() == {"queue full": 30} and len(rig.events) == 20
    assert [len(batch) for batch in rig.batches] == [8, 8, 4] and max(rig.n_at_once) <= 2


def test_beside_users_copies_rest_between_their_batches() -> None:
    """Of three batches the first begins at once, and the next only once no user is answered."""
    rig = Rig(load=LiveLoad(0, is_full=False, is_answering=True), seconds_a_batch=0.02)

    def users_left(traffic: ShadowTraffic) -> None:
        loop = asyncio.get_running_loop()

        def later() -> None:
            assert len(rig.batches) == 1 and not traffic.is_idle
            rig.load = LiveLoad(0, is_full=False)
            traffic.offer(a_live_answer("last"), LIVE)

        loop.call_later(0.02, later)

    rig.run(lambda traffic: [traffic.offer(answer, LIVE) for answer in answers(16)], users_left)
    assert [len(batch) for batch in rig.batches] == [8, 8, 1] and rig.dropped() == {}


def test_rested_copies_begin_without_anybody_asking() -> None:
    """Nothing is offered any more, and users' requests are under way all the time."""
    rig = Rig(
        load=LiveLoad(0, is_full=False, is_answering=True),
        settings=ServeSettings(shadow_time_share=0.5),
        seconds_a_batch=0.01,
        ticks=True,
    ).offering(*answers(16))
    assert [len(batch) for batch in rig.batches] == [8, 8] and len(rig.events) == 16


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda rig, _: setattr(rig, "plans", ()), "ended"),
        (lambda rig, _: setattr(rig, "plans", (replace(PLAN, share=0.5),)), "ended"),
        (lambda rig, _: rig.resident.clear(), "not resident"),
        (lambda rig, _: setattr(rig, "load", LiveLoad(1, is_full=True)), "live waits"),
        (lambda rig, _: setattr(rig, "now_s", 12.0), "late"),
        (lambda _, traffic: traffic.stop(), "stopped"),
    ],
)
def test_what_waits_is_looked_at_again_before_it_begins(
    change: Callable[[Rig, ShadowTraffic], None], reason: str
) -> None:
    """A shadow ended, a bundle let go, users came, too long a wait, a stop: all while queued."""
    rig = Rig()

    def begin(traffic: ShadowTraffic) -> None:
        for answer in answers(3):
            traffic.offer(answer, LIVE)
        change(rig, traffic)

    rig.run(begin)
    assert (rig.batches, rig.events, rig.dropped()) == ([], [], {reason: 3})


def test_after_a_stop_what_ran_is_not_recorded() -> None:
    """The log may be closed by then."""
    rig = Rig(gate=asyncio.Event())
    gate = rig.gate

    def stop(traffic: ShadowTraffic) -> None:
        traffic.stop()
        assert gate is not None
        gate.set()

    rig.run(lambda traffic: traffic.offer(a_live_answer(), LIVE), stop)
    assert (rig.events, rig.dropped()) == ([], {"stopped": 1})


def raising(error: Exception) -> Outcome:
    """A pipeline that breaks."""

    def fail(_: Ask) -> Answer:
        raise error

    return fail


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (lambda _: Overloaded("no source could be asked"), 503, "shed"),
        (raising(ZeroDivisionError()), 500, "internal"),
        (lambda ask: an_answer(ask, NEW, propensities=[0.5, float("nan")]), 500, "not finite"),
    ],
)
def test_a_failure_is_recorded_as_a_user_would_have_met_it(
    outcome: Outcome, status: int, reason: str
) -> None:
    """With the live slate and none of its own."""
    rig = Rig(outcome=outcome).offering(a_live_answer())
    (event,) = rig.events
    assert (event.status, event.reason, event.items) == (status, reason, ())
    assert event.live_items == ("a", "b") and event.propensities == ()


def test_a_bundle_that_a_stage_does_not_hold_is_no_failure_of_the_shadow() -> None:
    """It comes or goes; a user's request would have gone to stable."""
    rig = Rig(outcome=lambda _: BundleMiss("scorer does not hold it")).offering(*answers(2))
    assert (rig.events, rig.dropped()) == ([], {"missed": 2})


def test_copies_give_way_while_live_answers_are_slow() -> None:
    """And come back with the first quick ones, without a word from anybody."""
    slow = [a_live_answer(f"s{n}", stage_ms={"score": 900.0}) for n in range(10)]
    quick = [a_live_answer(f"q{n}", stage_ms={"score": 5.0}) for n in range(30)]
    rig = Rig().offering(*slow, *quick)
    answered = {event.request_id for event in rig.events}
    assert {"s0", "q29"} <= answered
    assert not {"s9", "q0"} & answered
    assert rig.dropped() == {"live slow": 40 - len(answered)}


def test_an_answer_that_the_log_refuses_is_not_counted_as_recorded() -> None:
    """Counters and log say the same."""
    rig = Rig(max_log_queue=4)

    def fill(traffic: ShadowTraffic) -> None:
        log = traffic._log
        while log.has_room:
            log.offer(ShadowAnswer(**{**_A_FIELDS, "event_id": "taken"}))
        assert rig.gate is not None
        rig.gate.set()

    rig.gate = asyncio.Event()
    rig.run(lambda traffic: traffic.offer(a_live_answer(), LIVE), fill)
    counts = rig.telemetry.take().counts
    assert {name: n for (name, _), n in counts.items()} == {"flywheel_shadow_dropped": 1}


def test_one_broken_copy_fails_no_other() -> None:
    """A batch that raises is answered one by one."""

    def outcome(ask: Ask) -> Answer:
        if ask.request_id.endswith("r1"):
            raise ZeroDivisionError
        return an_answer(ask, NEW)

    rig = Rig(outcome=outcome).offering(*answers(3))
    assert {event.request_id: event.status for event in rig.events} == {
        "r0": 200, "r1": 500, "r2": 200,
    }  # fmt: skip


def test_a_shadow_that_hangs_is_given_up() -> None:
    """At its own deadline, as 504; the next copy goes on."""
    settings = ServeSettings(shadow_deadline_ms=10)
    rig = Rig(settings=settings, gate=asyncio.Event()).offering(a_live_answer())
    (event,) = rig.events
    assert (event.status, event.reason) == (504, "deadline")


def test_shadow_events_are_the_first_to_go_when_the_log_is_slow() -> None:
    """With half of the queue full no copy is made; users' events still find room."""
    rig = Rig(max_log_queue=4)

    def begin(traffic: ShadowTraffic) -> None:
        log = traffic._log
        while log.has_room:
            log.offer(ShadowAnswer(**{**_A_FIELDS, "event_id": "taken"}))
        traffic.offer(a_live_answer(), LIVE)
        assert log.offer(ShadowAnswer(**{**_A_FIELDS, "event_id": "a user's"}))

    rig.run(begin)
    assert rig.dropped() == {"log full": 1} and rig.batches == []
    assert "r1" not in {event.request_id for event in rig.events}


def test_no_fault_of_copying_reaches_the_live_path() -> None:
    """Here the plans cannot be read."""
    rig = Rig(plans=cast(Any, (None,))).offering(a_live_answer())
    assert (rig.events, rig.dropped()) == ([], {"fault": 1})


_A_FIELDS: dict[str, Any] = {
    "request_id": "", "user_id": "u", "timestamp_ms": 0, "shadow_id": "s", "bundle_id": NEW,
    "live_bundle_id": LIVE, "status": 200,
}  # fmt: skip
