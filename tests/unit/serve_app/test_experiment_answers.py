"""Answers of a whole fused graph to users of experiments: bundles, orderings, and the way back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from cluster.experiments.experiment_record import Declaration, ExperimentRecord, experiment_id
from cluster.experiments.experiment_sides import bundle_sides, ordering_sides
from cluster.experiments.experiment_writer import ExperimentWriter
from recsys.events import Event, Impression, Outcome, decode_event
from recsys.experiment_plan import ExperimentArm, Layer
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from serve_app.gateway import Graph
from tests.asgi_client import call
from tests.bundles_for_tests import all_to, publish_small, put_in_force, small_settings

T = TypeVar("T")
NOW_MS = 1_767_268_800_000
SHARE = 0.5
USERS = [f"u{n}" for n in range(40)]


@dataclass
class Place:
    """Where the graph of a test lives, and who writes experiments there."""

    settings: Settings
    stable: str
    other: str
    writer: ExperimentWriter

    def run(self, name: str, layer: Layer, arms: tuple[ExperimentArm, ...]) -> str:
        """Begin an experiment of half of the users of its layer; its id."""
        found = ExperimentRecord(
            experiment_id(name, NOW_MS), name, layer, arms, SHARE, "ann", NOW_MS, Declaration()
        )
        stored = self.writer.start(found, NOW_MS)
        self.writer.set_running(found.experiment_id, stored.revision, "ann", NOW_MS)
        return found.experiment_id

    def events(self) -> list[Event]:
        """Everything in the log."""
        log = SqliteEventLog(self.settings.log_path, self.settings.events.n_partitions)
        parts = range(self.settings.events.n_partitions)
        records = [record for part in parts for record in log.read(part, 0, 10_000)]
        log.close()
        return [decode_event(record.value) for record in records]

    def ask_all(self, **fields: Any) -> list[dict[str, Any]]:
        """The answers to all users, asked at once, by a graph of its own."""
        name = f"gateway-{time.monotonic_ns()}"
        self.graph = Graph(self.settings, None, name, adds_request_id=True)

        async def ask(user: str) -> dict[str, Any]:
            body = msgspec.json.encode({"user_id": user, "k": 8} | fields)
            headers = {"x-request-id": f"r-{user}"}
            reply = await call(self.graph.http, "POST", "/v1/recommend", body, headers=headers)
            return {"status": reply.status, "user_id": user} | reply.json()

        async def scenario() -> list[dict[str, Any]]:
            return list(await asyncio.gather(*map(ask, USERS)))

        return using(self.graph, scenario())

    def impressions(self) -> dict[str, Impression]:
        """The newest slate of each user."""
        return {one.user_id: one for one in self.events() if isinstance(one, Impression)}


def drawn_as(answer: dict[str, Any]) -> list[tuple[str, float]]:
    """The items of an answer with their propensities."""
    return [(item["item_id"], item["propensity"]) for item in answer["items"]]


def using(graph: Graph, scenario: Coroutine[Any, Any, T]) -> T:
    """Run a scenario on a started graph and stop it."""

    async def whole() -> T:
        await graph.start()
        try:
            return await scenario
        finally:
            graph.stop()

    return asyncio.run(whole())


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[str, str]]:
    """A registry with two bundles."""
    root = tmp_path_factory.mktemp("experiments")
    settings = small_settings(root, placement="fused")
    first, second = (publish_small(settings, root / f"s{n}", seed=n).bundle_id for n in (1, 2))
    return root / "bundles", (first, second)


@pytest.fixture
def place(tmp_path: Path, published: tuple[Path, tuple[str, str]]) -> Iterator[Place]:
    """The first bundle is stable, and no experiment runs."""
    registry, (stable, other) = published
    settings = small_settings(tmp_path, placement="fused")
    Path(settings.registry_location).symlink_to(registry)
    put_in_force(settings, all_to(stable))
    writer = ExperimentWriter(settings.control_url)
    yield Place(settings, stable, other, writer)
    writer.close()


def test_sides_of_bundles_answer_their_users_and_are_named_in_the_log(place: Place) -> None:
    """Variant and experiment as of a rollout, the side beside them; nobody else sees anything."""
    experiment = place.run("scorer", Layer.BUNDLE, bundle_sides(place.stable, place.other))
    answers = place.ask_all()
    shown = place.impressions()
    seen = set()
    for answer in answers:
        slate = shown[answer["user_id"]]
        assert (slate.variant, slate.bundle_id) == (answer["variant"], answer["bundle_id"])
        seen.add((slate.variant, slate.bundle_id, slate.experiment, slate.experiments))
    assert seen == {
        ("stable", place.stable, None, ()),
        ("control", place.stable, experiment, (f"{experiment}:control",)),
        ("treatment", place.other, experiment, (f"{experiment}:treatment",)),
    }


def test_a_side_whose_bundle_is_not_here_is_answered_by_stable_and_credited_to_nobody(
    place: Place,
) -> None:
    """Counted; the users of the other side are answered by theirs."""
    experiment = place.run("scorer", Layer.BUNDLE, bundle_sides(place.stable, "no-such"))
    answers = place.ask_all()
    assert {answer["bundle_id"] for answer in answers} == {place.stable}
    shown = place.impressions().values()
    sides = {(one.variant, one.experiment, one.experiments) for one in shown}
    assert sides == {
        ("stable", None, ()),
        ("control", experiment, (f"{experiment}:control",)),
    }
    counts = place.graph.telemetry.take().counts
    tags = (("experiment", experiment),)
    assert 0 < counts["flywheel_experiment_fallbacks", tags] < len(USERS)


def test_an_ordering_is_put_over_the_bundles_own_and_explained_as_such(place: Place) -> None:
    """All of treatment's places are drawn, none of control's less often than before."""
    named = {"exploration": 1.0, "temperature": 1e9, "pool": 30, "diversity": 0.0}
    before = {answer["user_id"]: answer for answer in place.ask_all(explain=True)}
    experiment = place.run("order", Layer.ORDERING, ordering_sides(named))
    after = place.ask_all(explain=True)
    shown = place.impressions()
    sides = {shown[user].experiments for user in USERS}
    assert sides == {(), (f"{experiment}:control",), (f"{experiment}:treatment",)}
    for answer in after:
        slate = shown[answer["user_id"]]
        assert (slate.variant, slate.experiment) == ("stable", None)
        if slate.experiments != (f"{experiment}:treatment",):
            assert drawn_as(answer) == drawn_as(before[answer["user_id"]])
            continue
        # Temperature without end over a pool of 30: each of those left is as likely.
        uniform = 1 / (30 - np.arange(len(slate.slate)))
        found = [item.propensity for item in slate.slate]
        np.testing.assert_allclose(found, uniform, rtol=1e-4)
        moved = {item["explanation"]["moved_by"] for item in answer["items"]}
        assert moved <= {"exploration", None}, "a policy without diversity moves nothing by it"


def test_both_layers_hold_at_once_and_a_failure_is_told_of_its_side(place: Place) -> None:
    """A batch per bundle and ordering; whoever has no time left is an outcome of his side."""
    bundles = place.run("scorer", Layer.BUNDLE, bundle_sides(place.stable, place.other))
    orders = place.run("order", Layer.ORDERING, ordering_sides({"diversity": 0.9}))
    answers = place.ask_all()
    assert {answer["status"] for answer in answers} == {200}
    sides = {one.experiments for one in place.impressions().values()}
    assert (f"{bundles}:treatment", f"{orders}:treatment") in sides
    assert len(sides) == 9
    place.ask_all(deadline_ms=1)
    late = [one for one in place.events() if isinstance(one, Outcome) and one.status == 504]
    assert {(one.variant, one.experiment) for one in late} >= {
        ("stable", None),
        ("treatment", bundles),
    }


def test_an_ordering_that_this_release_cannot_read_changes_nothing(place: Place) -> None:
    """Its users are answered as all others, and their slates name no side of it."""
    arms = ordering_sides({"diversity": 0.9})
    bad = (arms[0], replace(arms[1], ordering={"diversity": 0.9, "of_a_later_release": 1}))
    place.run("order", Layer.ORDERING, bad)
    answers = place.ask_all()
    assert {answer["status"] for answer in answers} == {200}
    assert {one.experiments for one in place.impressions().values()} == {()}
