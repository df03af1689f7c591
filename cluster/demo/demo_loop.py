"""The steps of the demo, in order, and what they found out."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import numpy as np

from cluster.demo.demo_audience import (
    Audience,
    audience_of_lake,
    write_history,
    write_items,
)
from cluster.demo.demo_rollout import (
    EvidenceVerdict,
    check_aborted,
    check_promoted,
    plan_text,
    verdict_of,
)
from cluster.demo.demo_summary import DemoFindings, Refusal
from cluster.demo.demo_traffic import Manner, Traffic, TrafficLog, visits_of
from cluster.demo.demo_verbs import Verbs
from cluster.demo.spoiled_bundle import publish_spoiled, publish_worse
from cluster.local.ports import connect_host
from recsys.bundles.registry import open_registry
from recsys.errors import RecsysError
from recsys.settings import Settings
from recsys.simulated.simulated_population import DAY_MS, WorldSettings
from recsys.simulated.simulation import World

T = TypeVar("T")

WORLD_DAYS = 30
"""The demo takes place on this day of the world."""
LOG_DAYS = 18
"""The imported history ends on this day; what came after, no bundle has seen yet."""
EVENTS_PER_USER = 32
MEASURED_SHARE = 0.3
"""Share of the users that both bundles are shown to; the others make the traffic meanwhile."""
N_MEASURED_VISITS = 5
REFUSED = (1, 5)
ENDED = (0, 3, 4, 5)
"""Exit codes of a rollout that has ended, however."""
ROLLOUT_TIMEOUT_S = 420
N_ASKED = 64
"""Users asked to see who answers."""

_LEARNING, _PROMOTING, _MEASURING, _RESISTING, _ABORTING, _UNDOING = range(6)
"""First word of a visit's luck, so that no two parts of the demo share their draws."""


class DemoLoop:
    """One run of the demo in an empty data directory."""

    def __init__(self, settings: Settings, verbs: Verbs, note: Callable[[str], None]) -> None:
        self._settings = settings
        self._verbs = verbs
        self._note = note
        self._registry = open_registry(settings)
        self._log = TrafficLog()
        self._seconds: dict[str, float] = {}
        self._now_ms = time.time_ns() // 1_000_000

    def run(self, data: Path | None, minutes: float | None) -> DemoFindings:
        """The whole loop.

        Args:
            data: what to import; None simulates it.
            minutes: of live traffic before retraining; None is two visits of every user.

        Raises:
            RecsysError: a step did not end as it must; the message names it.
        """
        audience, n_imported = self._step("import", lambda: self._import(data))
        first = self._step("train", self._train)
        self._step("up", lambda: self._verbs.run("up", "--wait"))
        host = connect_host(self._settings.serve.host)
        traffic = Traffic(host, self._settings.serve.port, audience, self._now_ms)
        self._step("live traffic", lambda: self._live(traffic, minutes))
        second = self._step("retrain", lambda: self._train("--warm-start"))
        before = self._step("measure before", lambda: self._measure(traffic, first))
        promoted = self._step("promote by evidence", lambda: self._promote(traffic, second))
        after = self._step("measure after", lambda: self._measure(traffic, second))
        self._log.add(traffic.send([*before.unsent, *after.unsent]))
        refusal = self._step("refuse", lambda: self._offer_spoiled(traffic, second))
        aborted = self._step("abort by evidence", lambda: self._offer_worse(traffic, second))
        swaps = self._step("undo and redo", lambda: self._undo_and_redo(traffic, first, second))
        return DemoFindings(
            data="a simulated world" if data is None else str(data),
            is_simulated=data is None,
            first_bundle=first,
            second_bundle=second,
            before=before.shown,
            after=after.shown,
            n_imported=n_imported,
            n_events=self._log.n_events,
            n_slates=len(self._log.shown),
            n_requests=self._log.n_requests,
            failures=dict(self._log.failures),
            swaps=swaps,
            promoted=promoted,
            aborted=aborted,
            refusal=refusal,
            seconds={name: round(seconds, 1) for name, seconds in self._seconds.items()},
        )

    def raise_for_failures(self) -> None:
        """Say by an error that requests failed.

        Raises:
            RecsysError: at least one did.
        """
        if self._log.n_failed:
            what = ", ".join(f"{name} x{count}" for name, count in self._log.failures.items())
            raise RecsysError(
                f"{self._log.n_failed} of {self._log.n_requests} requests failed ({what}), "
                f"expected none; see {self._settings.run_dir}"
            )

    def _step(self, name: str, take: Callable[[], T]) -> T:
        self._note(f"{name} ...")
        started_s = time.monotonic()
        result = take()
        self._seconds[name] = time.monotonic() - started_s
        self._note(f"{name}: done in {self._seconds[name]:.0f} s")
        return result

    def _import(self, data: Path | None) -> tuple[Audience, int]:
        """Bring the history in; who will react to slates, and how many events came in."""
        if data is not None:
            report = self._verbs.run("import", str(data)).document
            return audience_of_lake(self._settings.lake_location), int(report.get("n_new", 0))
        law = WorldSettings(start_ms=self._now_ms - WORLD_DAYS * DAY_MS)
        world = World(law, self._settings.train.seed)
        rng = np.random.default_rng(self._settings.train.seed)
        log = world.history(LOG_DAYS, EVENTS_PER_USER, rng)
        history, items = (self._settings.data_dir / name for name in ("history.csv", "items.csv"))
        write_history(log, history)
        write_items(world.items(law.start_ms + LOG_DAYS * DAY_MS), items)
        report = self._verbs.run("import", str(history), "--items", str(items)).document
        return world, int(report.get("n_new", 0))

    def _train(self, *options: str) -> str:
        document = self._verbs.run("train", "--publish", *options).document
        for rule in document.get("gate", {}).get("rules", ()):
            self._note(f"  gate: {rule['sentence']}")
        bundle_id = document.get("bundle_id")
        if not bundle_id:
            raise RecsysError("'cluster train --publish' named no bundle, expected its bundle_id")
        return str(bundle_id)

    def _live(self, traffic: Traffic, minutes: float | None) -> None:
        """New items appear, and everybody visits."""
        if isinstance(traffic.audience, World):
            log_end_ms = self._now_ms - (WORLD_DAYS - LOG_DAYS) * DAY_MS
            appeared = traffic.audience.items(self._now_ms)
            self._log.add(
                traffic.put_items([i for i in appeared if (i.created_ms or 0) > log_end_ms])
            )
        deadline_s = time.monotonic() + (minutes or 0.0) * 60.0
        turn = 0
        while turn < 2 if minutes is None else time.monotonic() < deadline_s:
            is_over = (lambda: time.monotonic() > deadline_s) if minutes is not None else _never
            visits = visits_of(traffic.audience.user_ids, _LEARNING, turn)
            self._log.add(traffic.run(visits, Manner(), is_over))
            turn += 1

    def _measure(self, traffic: Traffic, bundle_id: str) -> TrafficLog:
        """Show the measured users their slates, the world and their histories standing still.

        What they do is kept and sent after both bundles were measured, so that both meet the same
        people.
        """
        users = self._measured_users(traffic.audience)
        manner = Manner(sends=False, remembers=False, n_discoveries=0)
        measured = TrafficLog()
        for turn in range(N_MEASURED_VISITS):
            measured.add(traffic.run(visits_of(users, _MEASURING, turn), manner))
        self._log.add(measured)
        others = {slate.bundle_id for slate in measured.shown} - {bundle_id}
        if others:
            raise RecsysError(
                f"slates came from {', '.join(sorted(others))} while {bundle_id} was measured, "
                "expected that bundle alone; see 'cluster canary history'"
            )
        return measured

    def _promote(self, traffic: Traffic, bundle_id: str) -> EvidenceVerdict:
        waits = isinstance(traffic.audience, World)
        found = self._roll_out(traffic, bundle_id, _PROMOTING, waits)
        check_promoted(found, waits_for_clicks=waits)
        return found

    def _offer_worse(self, traffic: Traffic, good_id: str) -> EvidenceVerdict:
        """Offer a bundle that no check can refuse; what users do with its slates must end it."""
        work_dir = self._settings.data_dir / "spoiling"
        worse = publish_worse(self._registry, good_id, work_dir, datetime.now(UTC))
        found = self._roll_out(
            traffic, worse.bundle_id, _ABORTING, isinstance(traffic.audience, World)
        )
        check_aborted(found)
        self._expect_answers_of(traffic, good_id, _ABORTING)
        return found

    def _roll_out(
        self, traffic: Traffic, bundle_id: str, part: int, waits_for_clicks: bool
    ) -> EvidenceVerdict:
        """Let the controller decide under traffic, and tell why it did."""
        plan = self._settings.data_dir / "demo-plan.toml"
        plan.write_text(plan_text(waits_for_clicks=waits_for_clicks), encoding="utf-8")
        options = ("--plan", str(plan), "--wait", "--timeout", str(ROLLOUT_TIMEOUT_S))
        # Nobody is measured any more once a worse bundle is offered: everybody makes evidence.
        users = traffic.audience.user_ids if part == _ABORTING else None
        with self._others_visiting(traffic, part, users) as log:
            self._verbs.run("canary", "start", bundle_id, *options, accepted=ENDED)
            explained = self._verbs.run("canary", "explain").document
        for line in explained["why"]:
            self._note(f"  {line}")
        answered = {slate.user_id for slate in log.shown if slate.bundle_id == bundle_id}
        return verdict_of(explained, len(answered))

    def _undo_and_redo(self, traffic: Traffic, first: str, second: str) -> list[str]:
        """Lead back to the earlier bundle and forth again, under traffic; both must answer."""
        with self._others_visiting(traffic, _UNDOING):
            self._verbs.run("canary", "undo")
            self._expect_answers_of(traffic, first, _UNDOING)
            self._verbs.run("canary", "undo", "--to", second)
            self._expect_answers_of(traffic, second, _UNDOING)
        self._expect_stable(second)
        return [f"undo: {second} -> {first}", f"undo: {first} -> {second}"]

    def _expect_stable(self, bundle_id: str) -> None:
        """Demand that the alias names the bundle too."""
        stable = self._verbs.run("canary", "status").document.get("stable")
        if stable != bundle_id:
            raise RecsysError(
                f"bundle {stable} is stable after undo and redo, expected {bundle_id}; "
                "see 'cluster canary history'"
            )

    def _expect_answers_of(self, traffic: Traffic, bundle_id: str, part: int) -> None:
        """Demand that everybody is answered by one bundle from now on."""
        users = self._measured_users(traffic.audience)[:N_ASKED]
        manner = Manner(sends=False, remembers=False, n_discoveries=0)
        log = traffic.run(visits_of(users, part, 0), manner)
        self._log.add(replace(log, unsent=[]))
        served = {slate.bundle_id for slate in log.shown}
        if served != {bundle_id}:
            raise RecsysError(
                f"bundles {', '.join(sorted(served)) or 'none'} answered, expected {bundle_id} "
                "alone; see 'cluster canary history'"
            )

    def _offer_spoiled(self, traffic: Traffic, good_id: str) -> Refusal:
        """Offer a bundle whose scorer is broken; it must be refused and nobody must notice."""
        spoiled = publish_spoiled(
            self._registry, good_id, self._settings.data_dir / "spoiling", datetime.now(UTC)
        )
        with self._others_visiting(traffic, _RESISTING) as log:
            result = self._verbs.run(
                "canary", "start", spoiled.bundle_id, "--plan", "instant", accepted=REFUSED
            )
        served = {slate.bundle_id for slate in log.shown}
        if served != {good_id}:
            raise RecsysError(
                f"bundles {', '.join(sorted(served)) or 'none'} answered while a broken bundle "
                f"was offered, expected {good_id} alone; see 'cluster canary history'"
            )
        why = "every weight of its scorer is NaN"
        return Refusal(spoiled.bundle_id, why, result.exit_code, result.reason)

    @contextmanager
    def _others_visiting(
        self, traffic: Traffic, part: int, users: Sequence[str] | None = None
    ) -> Generator[TrafficLog]:
        """Traffic of these users, or of all that are not measured, while the block runs."""
        measured = set(self._measured_users(traffic.audience)) if users is None else set()
        others = [user for user in users or traffic.audience.user_ids if user not in measured]
        log = TrafficLog()
        try:
            with traffic.going_on(lambda turn: visits_of(others, part, turn)) as log:
                yield log
        finally:
            self._log.add(log)

    def _measured_users(self, audience: Audience) -> list[str]:
        return audience.user_ids[: max(1, int(len(audience.user_ids) * MEASURED_SHARE))]


def _never() -> bool:
    return False
