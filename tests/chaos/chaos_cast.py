"""The producers and followers of a failure run: started, killed, replaced, ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from pathlib import Path

from recsys.stores.control.membership import ARCHIVER, EVIDENCE, FEATURES
from tests.chaos.chaos_children import Child
from tests.chaos.chaos_facts import RunFacts
from tests.chaos.chaos_follower import FollowOrder
from tests.chaos.chaos_plan import ChaosPlan
from tests.chaos.chaos_producer import Order

N_PRODUCERS = 2
PRODUCER = "producer"


class Cast:
    """All child processes of one run, by what they are and their number.

    Args:
        directory: what they say goes into files of it.
    """

    def __init__(self, plan: ChaosPlan, facts: RunFacts, directory: Path) -> None:
        self._plan = plan
        self._facts = facts
        self._directory = directory
        self._children: dict[tuple[str, int], Child] = {}
        self._generations: Counter[tuple[str, int]] = Counter()

    def start_all(self) -> None:
        """Start everybody; who is up has spoken."""
        for kind, n in (
            (ARCHIVER, self._plan.n_archivers),
            (FEATURES, self._plan.n_feature_streams),
            (EVIDENCE, self._plan.n_evidence_streams),
            (PRODUCER, N_PRODUCERS),
        ):
            for number in range(n):
                self.start(kind, number)

    def start(self, kind: str, number: int) -> None:
        """Start one; a killed one's successor has a new name."""
        self._generations[kind, number] += 1
        generation = self._generations[kind, number]
        settings = self._facts.settings.model_dump(mode="json")
        if kind == PRODUCER:
            module = "tests.chaos.chaos_producer"
            order = Order(
                settings=settings,
                plan=asdict(self._plan),
                producer=number,
                n_producers=N_PRODUCERS,
                owner=f"{kind}-{number}-{generation}",
                base_ms=self._facts.base_ms,
                acknowledged=str(self._facts.acknowledged[number]),
            ).as_argument()
        else:
            module = "tests.chaos.chaos_follower"
            order = FollowOrder(
                settings, kind, f"{kind}-{number}-{generation}", claims_all=number > 0
            ).as_argument()
        log = self._directory / f"{kind}-{number}.log"
        self._children[kind, number] = Child((module, order), log)

    def is_up(self, kind: str, number: int) -> bool:
        """Whether this one lives and has spoken since its start."""
        child = self._children.get((kind, number))
        return child is not None and bool(child.report)

    def is_everybody_up(self) -> bool:
        """Whether all have spoken."""
        return all(child.report for child in self._children.values())

    def kill(self, kind: str, number: int) -> None:
        """SIGKILL one and see it gone."""
        child = self._children.pop((kind, number))
        self._note(child)
        child.kill()

    def producers(self) -> list[Child]:
        """The producers that were started and not killed."""
        return [child for (kind, _), child in self._children.items() if kind == PRODUCER]

    def dismiss_dead(self) -> list[tuple[str, int]]:
        """Who ended without being killed, which is noted."""
        dead = [key for key, child in self._children.items() if child.exit_code is not None]
        for key in dead:
            child = self._children.pop(key)
            self._facts.problems.append(f"{key[0]} {key[1]} ended with {child.exit_code}")
            child.kill()
        return dead

    def end(self, *kinds: str) -> None:
        """Let all of these kinds end by themselves."""
        for key in [key for key in self._children if key[0] in kinds]:
            child = self._children.pop(key)
            self._note(child)
            code = child.end()
            if code:
                self._facts.problems.append(f"{key[0]} {key[1]} ended with {code}")

    def kill_all(self) -> None:
        """Leave nobody behind."""
        for child in self._children.values():
            child.kill()
        self._children.clear()

    def _note(self, child: Child) -> None:
        self._facts.n_repeated += int(child.report.get("n_repeated", 0))
        self._facts.n_dropped += int(child.report.get("n_dropped", 0))
