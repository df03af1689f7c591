"""Experiments on real Ray: a pair, a 2 x 2 and an ordering at once, from start to promotion."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import duckdb
import httpx
import pytest

from recsys.bundles.registry import Registry
from recsys.experiment_plan import Experiments, Layer, place_of
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from tests.bundles_for_tests import build_bundle, small_settings
from tests.loop_driver import Loop, item_ids, wait_for
from train_app.lake.lake_tables import Lake

pytestmark = pytest.mark.e2e

STABLE, RIVAL = "b0001", "b0002"
USERS = [f"u{n}" for n in range(640)]
K, HOLDOUT, WINDOW_S = 10, 0.1, 4
OUTSIDER = next(f"o{n}" for n in range(1_000) if place_of("holdout", f"o{n}") < HOLDOUT)
"""Of the holdout: what he is shown only says how far the log goes."""
CLICKS = {"control": 1, "treatment": 4, "retriever": 2, "scorer": 3, "both": 5}
"""What a user clicks of a slate of a side of the bundle layer, and at times one item more."""
PATIENT = {"SERVE__DEADLINE_MS": "20000", "SERVE__STAGE_TIMEOUT_MS": "10000"}
"""Who is answered by whom is asked here, not how fast a busy machine is."""
START = ("experiment", "start")
DECLARED = ("--margin", "0.1", "--label-window", str(WINDOW_S))


@dataclass
class Place:
    """A running cluster with what its users saw and did."""

    loop: Loop
    settings: Settings
    sides: dict[str, dict[Layer, tuple[str, str]]] = field(default_factory=dict)
    """User to (experiment id, side) by layer, as the stored plans have it."""
    answers: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    clicked: Counter[str] = field(default_factory=Counter)
    """User to items clicked."""
    reports: dict[str, Any] = field(default_factory=dict)
    """By experiment, as they were before anything ended."""

    @property
    def experiments(self) -> Experiments:
        """What gateways follow."""
        return ControlReader(self.settings.control_url).view().experiments

    def learn_sides(self) -> None:
        """Every user's sides by the stored plans, once gateways follow the newest one.

        Who is asked for that takes part: an `early` user of the treatment of the newest, and of
        nothing else, so that what he was shown before it was followed counts for nobody.
        """
        experiments = self.experiments
        newest = experiments.plans[-1]
        early = (f"early{n}" for n in range(1_000))
        only = [(newest, newest.arms[1])]
        seen = next(user for user in early if list(experiments.of_user(user)) == only)
        for user in (*USERS, seen):
            parts = experiments.of_user(user)
            self.sides[user] = {one.layer: (one.experiment_id, arm.name) for one, arm in parts}

        def is_followed() -> bool:
            answer = self.loop.recommend(seen, K)
            if answer["bundle_id"] == newest.arms[1].bundle_id:
                self.answers[seen].append(answer)
            return bool(self.answers[seen])

        wait_for(is_followed, f"gateways to follow {newest.experiment_id}", 60)

    def users_of(self, name: str) -> dict[str, list[str]]:
        """The users of each side of an experiment."""
        found = defaultdict(list)
        for user, sides in self.sides.items():
            for experiment_id, arm in sides.values():
                if experiment_id.startswith(f"{name}-"):
                    found[arm].append(user)
        return found

    def rate(self, users: Sequence[str]) -> float:
        """Items clicked of those shown."""
        n_shown = sum(K * len(self.answers[user]) for user in users)
        return sum(self.clicked[user] for user in users) / n_shown

    def report(self, name: str) -> dict[str, Any]:
        """The document of an experiment's report."""
        found: dict[str, Any] = self.loop.run_json("experiment", "report", name)
        return found

    def ask(self, client: httpx.Client, user: str) -> None:
        """One slate, and the clicks that its side earns."""
        body = {"user_id": user, "k": K}
        answer = client.post("/v1/recommend", json=body).raise_for_status().json()
        self.answers[user].append(answer)
        n_clicks = CLICKS.get(answer["variant"], 1) + int(user[1:]) % 2
        clicks = [
            {"kind": "click", "user_id": user, "item_id": item, "request_id": answer["request_id"]}
            for item in item_ids(answer)[:n_clicks]
        ]
        client.post("/v1/events", json={"events": clicks}).raise_for_status()
        self.clicked[user] += n_clicks

    def visit(self, users: Iterable[str]) -> None:
        """All of them ask once and click, four at a time."""
        limits = httpx.Limits(max_connections=4)
        with (
            httpx.Client(base_url=self.loop.url, timeout=30, limits=limits) as client,
            ThreadPoolExecutor(4) as crowd,
        ):
            list(crowd.map(lambda user: self.ask(client, user), users))

    def bundle_of(self, user: str) -> str:
        """Which bundle answers a user now."""
        return str(self.loop.recommend(user, k=2)["bundle_id"])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Generator[Place]:
    """A cluster with two bundles of different towers, one of which is stable."""
    directory = tmp_path_factory.mktemp("experiments")
    settings = small_settings(directory / "var")
    registry = Registry(settings.registry_location)
    for seed, bundle_id in ((1, STABLE), (2, RIVAL)):
        build_bundle(directory / bundle_id, settings, seed=seed)
    registry.publish(directory / STABLE)
    retrieval = settings.retrieval
    loop = Loop(
        settings.data_dir,
        RETRIEVAL__N_CANDIDATES=str(retrieval.n_candidates),
        RETRIEVAL__N_SHARDS=str(retrieval.n_shards),
        **PATIENT,
    )
    try:
        loop.run("up", "--wait")
        registry.publish(directory / RIVAL)
        yield Place(loop, settings)
    finally:
        loop.run("down")


def test_users_are_answered_by_the_side_that_the_plan_gives_them(place: Place) -> None:
    """A pair, a 2 x 2 and an ordering run at once; nobody of the holdout is in any."""
    start = place.loop.run_json
    place.loop.run("experiment", "holdout", "--share", str(HOLDOUT))
    wide = start(*START, "wide", "--treatment", RIVAL, "--factorial", "--share", "0.6", *DECLARED)
    start(*START, "spread", "--ordering", "diversity=0.9", "--share", "0.5", *DECLARED)
    pair = start(*START, "pair", "--treatment", RIVAL, "--share", "0.4", *DECLARED)
    place.loop.run(*START, "more", "--treatment", RIVAL, "--share", "0.1", expect=4)
    bundles = {
        (one["experiment"]["experiment_id"], arm["name"]): arm["bundle_id"]
        for one in (wide, pair)
        for arm in one["experiment"]["plan"]["arms"]
    }
    assert len(set(bundles.values())) == 4  # stable, the treatment, and one composed each way
    place.learn_sides()
    place.visit(USERS)
    place.visit(USERS[::5])
    for user in USERS:
        side = place.sides[user].get(Layer.BUNDLE)
        expected = (STABLE, "stable") if side is None else (bundles[side], side[1])
        assert {(one["bundle_id"], one["variant"]) for one in place.answers[user]} == {expected}
    n_holdout = sum(place_of("holdout", user) < HOLDOUT for user in USERS)
    assert n_holdout and sum(not place.sides[user] for user in USERS) >= n_holdout


def test_the_status_counts_users_and_slates_of_both_layers(place: Place) -> None:
    """Once the evidence has followed the log; what it cannot tell apart it does not count."""

    def counted(name: str) -> dict[str, int]:
        (found,) = place.loop.run_json("experiment", "status", name)["experiments"]
        return {arm: sums["users"] for arm, sums in found["counted"].items()}

    def is_told() -> bool:
        return all(
            counted(name) == {arm: len(users) for arm, users in place.users_of(name).items()}
            for name in ("pair", "wide")
        )

    wait_for(is_told, "the status to count everybody", 90)
    assert counted("spread") == {}


def test_a_report_equals_counts_by_hand(place: Place) -> None:
    """Users, slates and click rates of each side of all three, from the lake."""
    open_until_ms = time.time() * 1000 + WINDOW_S * 1000
    wait_for(lambda: time.time() * 1000 > open_until_ms, "label windows to close", 2 * WINDOW_S)
    place.loop.recommend(OUTSIDER)
    reports = place.reports
    for name in ("pair", "wide", "spread"):
        found = reports[name] = place.report(name)
        sides = place.users_of(name)
        assert found["users"] == {arm: len(users) for arm, users in sides.items()}
        slates = {arm: sum(len(place.answers[u]) for u in users) for arm, users in sides.items()}
        assert found["slates"] == slates
        for side in found["verdict"]["sides"]:
            assert side["primary"]["baseline"] == pytest.approx(place.rate(sides["control"]))
            assert side["primary"]["canary"] == pytest.approx(place.rate(sides[side["arm"]]))
    assert reports["pair"]["verdict"]["winner"] == "treatment"
    assert reports["wide"]["verdict"]["winner"] == "both"


def test_a_2x2_attributes_the_gain_to_retriever_and_scorer(place: Place) -> None:
    """Main effects and the interaction are those of the clicks that were made."""
    rate = {arm: place.rate(users) for arm, users in place.users_of("wide").items()}
    gained = {
        "retriever": (rate["retriever"] - rate["control"] + rate["both"] - rate["scorer"]) / 2,
        "scorer": (rate["scorer"] - rate["control"] + rate["both"] - rate["retriever"]) / 2,
        "interaction": rate["both"] - rate["retriever"] - rate["scorer"] + rate["control"],
    }
    found = {one["name"]: one for one in place.reports["wide"]["factors"]}
    for name, gain in gained.items():
        assert found[name]["effect"] == pytest.approx(gain / rate["control"])
        assert found[name]["low"] < found[name]["effect"] < found[name]["high"]
    assert found["retriever"]["low"] > 0 and found["scorer"]["low"] > 0


def test_impressions_name_the_sides_they_were_answered_under(place: Place) -> None:
    """One per layer, in the lake, for every user and nobody else."""
    table = Lake(place.settings.lake_location).find("impressions")
    assert table is not None
    with duckdb.connect() as connection:
        table.attach(connection, "impressions")
        rows = connection.execute("SELECT user_id, experiments FROM impressions").fetchall()
    found = Counter((user, tuple(sides)) for user, sides in rows if user in set(USERS))
    assert found == {
        (user, tuple(f"{one}:{arm}" for one, arm in place.sides[user].values())): len(
            place.answers[user]
        )
        for user in USERS
    }


def test_the_winner_is_rolled_out_and_the_others_go_on(place: Place) -> None:
    """An ordering has no bundle to promote; control of the 2 x 2 keeps the old stable bundle."""
    place.loop.run("experiment", "stop", "spread", "--promote", expect=2)
    pair, control = place.users_of("pair")["control"][0], place.users_of("wide")["control"][0]
    assert place.bundle_of(pair) == STABLE
    done = place.loop.run_json("experiment", "stop", "pair", "--promote", "--plan", "instant")
    assert done["rollout"]["bundle_id"] == RIVAL and "treatment" in done["experiment"]["why"]
    assert place.loop.run_json("status")["control"]["aliases"]["stable"] == RIVAL
    wait_for(lambda: place.bundle_of(pair) == RIVAL, "control of the pair on the winner", 60)
    assert place.bundle_of(control) == STABLE


def test_users_of_a_stopped_experiment_go_back_to_stable(place: Place) -> None:
    """Those of every side; what they were shown before is still reported."""
    users = [users[0] for users in place.users_of("wide").values()]
    assert {place.bundle_of(user) for user in users} != {RIVAL}
    place.loop.run("experiment", "stop", "wide")
    wait_for(lambda: {place.bundle_of(user) for user in users} == {RIVAL}, "everybody back", 60)
    assert not [one for one in place.experiments.plans if one.layer is Layer.BUNDLE]
    found = place.report("wide")
    assert found["users"] == {arm: len(users) for arm, users in place.users_of("wide").items()}
    assert found["verdict"]["winner"] == "both"
