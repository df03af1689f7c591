"""What an explanation says of the history: true of the bundle, and never at another's cost."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundles.item_table import ItemTable
from recsys.feature_definitions import MS_PER_DAY
from recsys.features import FeatureSchema, history_arrays
from recsys.stages import ATTRIBUTED, SCORER
from recsys.stores.features.feature_update import FeatureUpdate, PairTotals, Ranked
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.types import Batch, HistoryEvent, Source
from serve_app.asks import Answer, Ask, Chosen, Dropped, Explanation, ToAttribute
from serve_app.gateway import Graph
from serve_app.http.recommend_requests import RecommendRequest
from serve_app.residents.bundle_loading import LoadedBundle
from serve_app.stages.explaining import Explainer
from serve_app.stages.placement import BundleMiss
from serve_app.telemetry import Telemetry
from tests.asgi_client import call
from tests.bundles_for_tests import (
    NOW_MS,
    all_to,
    publish_small,
    put_in_force,
    small_history,
    small_settings,
)
from tests.feature_backends import pairs_of, store
from train_app.following.features.load_history import load_histories

N_ITEMS, BUNDLE = 120, "b0000"
UNKNOWN_ITEM = HistoryEvent("unheard of", "click", NOW_MS - 500)
HISTORIES = {
    "u1": [HistoryEvent(f"i{7 * n}", "like", NOW_MS - 60_000 * (9 - n)) for n in range(9)],
    "long": small_history(3, N_ITEMS, 30),
    "odd": [HistoryEvent("i5", "hover", NOW_MS - 9_000), UNKNOWN_ITEM],
    "twice": [HistoryEvent("i5", "click", NOW_MS - 1_000 * n) for n in (9, 4, 1)],
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    """A whole gateway in this process; every item has neighbours."""
    root: Path = tmp_path_factory.mktemp("explaining")
    settings = small_settings(root, placement="fused", deadline_ms=20_000, stage_timeout_ms=10_000)
    manifest = publish_small(settings, root / "staging", n_items=N_ITEMS)
    writer = SqliteFeatureWriter(settings.feature_path)
    load_histories(writer, list(HISTORIES.items()), settings)
    steps = (7, 31)
    pairs = [(f"i{n}", f"i{(n + step) % N_ITEMS}") for n in range(N_ITEMS) for step in steps]
    store(writer, FeatureUpdate(0, 1, 9 * MS_PER_DAY, pair_counts=pairs_of(*pairs)))

    def rank(totals: PairTotals) -> dict[str, Ranked]:
        return {
            item_id: sorted((other_id, n / 4) for other_id, n in found.items())
            for item_id, found in totals.pairs.items()
        }

    writer.refresh_neighbours(N_ITEMS, 0, rank)
    writer.close()
    put_in_force(settings, all_to(manifest.bundle_id))
    graph = Graph(settings, None, "gateway-1", adds_request_id=True)
    asyncio.run(graph.start())
    yield graph
    graph.stop()


def ask(graph: Graph, user_id: str, k: int = 10, **fields: Any) -> dict[str, Any]:
    """The answer to a request."""
    body = json.dumps({"user_id": user_id, "k": k, **fields}).encode()
    reply = asyncio.run(call(graph.http, "POST", "/v1/recommend", body))
    assert reply.status == 200
    found: dict[str, Any] = reply.json()
    return found


def loaded(graph: Graph) -> LoadedBundle:
    """The bundle in force."""
    bundle = graph.residency.get(BUNDLE)
    assert bundle is not None
    return bundle


def test_an_explanation_names_history_features_and_the_stage_that_put_the_item_there(
    graph: Graph,
) -> None:
    """Three events at most, the one that counts most first; nothing is missing."""
    answer = ask(graph, "u1", k=12, explain=True)
    assert answer["degraded"] == []
    titles = {event.item_id: f"Title {event.item_id[1:]}" for event in HISTORIES["u1"]}
    for item in answer["items"]:
        why = item["explanation"]
        assert 1 <= len(why["history"]) <= 3
        sizes = [abs(cause["contribution"]) for cause in why["history"]]
        assert sizes == sorted(sizes, reverse=True)
        for cause in why["history"]:
            assert set(cause) == {"item_id", "title", "kind", "contribution"}
            assert titles[cause["item_id"]] == cause["title"]
            assert cause["kind"] == "like"
        assert set(why["features"]) == set(ATTRIBUTED)
        assert why["source"] == item["source"]
        assert why["retrieval_rank"] >= 0
        assert why["places_moved"] == why["score_rank"] - item["position"]


def test_what_is_claimed_of_an_event_is_what_happens_without_it(graph: Graph) -> None:
    """From the answer alone: encode and score again, with the event taken out of the history."""
    bundle = loaded(graph)
    assert bundle.gateway is not None
    answer = ask(graph, "u1", k=12, explain=True)
    candidates = candidates_of(answer, bundle.gateway.items)
    history = HISTORIES["u1"]
    for n, item in enumerate(answer["items"]):
        cause = item["explanation"]["history"][0]
        without = [event for event in history if event.item_id != cause["item_id"]]
        assert len(without) == len(history) - 1
        before, after = (utility(bundle, past, candidates)[n] for past in (history, without))
        assert before == pytest.approx(item["score"], rel=1e-3, abs=1e-5)
        assert before - after == pytest.approx(cause["contribution"], rel=1e-2, abs=1e-5)


def candidates_of(answer: dict[str, Any], items: ItemTable) -> Batch:
    """The slate of an explained answer as candidates."""
    why = [item["explanation"] for item in answer["items"]]
    sources = [Source[one["source"].upper()] for one in why]
    return {
        "rows": np.asarray([[items.row_of[i["item_id"]] for i in answer["items"]]], np.int32),
        "sources": np.asarray([sources], np.int8),
        "ranks": np.asarray([[one["retrieval_rank"] for one in why]], np.int32),
    }


def utility(bundle: LoadedBundle, history: Sequence[HistoryEvent], candidates: Batch) -> np.ndarray:
    """What the scorer stage makes of candidates for a history, [K]."""
    assert bundle.gateway is not None
    gateway = bundle.gateway
    features = history_arrays([history], gateway.items.row_of, gateway.schema, [NOW_MS])
    scorer = bundle.stages[SCORER]
    encoded = scorer("encode", features)
    found: np.ndarray = scorer("score", {**features, **encoded, **candidates})["utility"][0]
    return found


def test_what_goes_together_with_an_item_names_it(graph: Graph) -> None:
    """The seed of each item of the neighbours source, and of no other."""
    items = ask(graph, "u1", k=40, explain=True)["items"]
    assert "neighbours" in {item["source"] for item in items}
    past = {event.item_id for event in HISTORIES["u1"]}
    for item in items:
        seed = item["explanation"]["seed"]
        assert (seed is not None) == (item["source"] == "neighbours")
        if seed is not None:
            row, seed_row = int(item["item_id"][1:]), int(seed["item_id"][1:])
            assert seed["item_id"] in past
            assert seed["title"] == f"Title {seed_row}"
            assert (row - seed_row) % N_ITEMS in {7, 31, N_ITEMS - 7, N_ITEMS - 31}


def test_users_without_a_history_have_no_history_to_be_told_of(graph: Graph) -> None:
    """An empty list, and not the null of what could not be found out."""
    answer = ask(graph, "nobody", explain=True)
    assert answer["degraded"] == []
    assert {tuple(item["explanation"]["history"]) for item in answer["items"]} == {()}
    assert all(item["explanation"]["features"]["history"] == 0 for item in answer["items"])


def test_odd_histories_are_told_as_they_are(graph: Graph) -> None:
    """Events of unknown items are none, unknown kinds are `other`, one item may count thrice."""
    odd = ask(graph, "odd", explain=True)["items"]
    named = [
        (cause["item_id"], cause["kind"]) for i in odd for cause in i["explanation"]["history"]
    ]
    assert set(named) == {("i5", "other")}
    twice = ask(graph, "twice", explain=True)["items"]
    most = max((item["explanation"]["history"] for item in twice), key=len)
    assert [cause["item_id"] for cause in most] == ["i5"] * 3
    long = ask(graph, "long", explain=True)
    known = {event.item_id for event in HISTORIES["long"][-20:]}
    causes = [cause for item in long["items"] for cause in item["explanation"]["history"]]
    assert {cause["item_id"] for cause in causes} <= known
    assert causes


def test_a_request_that_asks_for_no_explanation_pays_for_none(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The scorer is asked what it is always asked, and in the same slate."""
    stages: Any = loaded(graph).stages
    scorer, methods = stages[SCORER], []

    def counted(method: str, batch: Batch) -> Batch:
        methods.append(method)
        found: Batch = scorer(method, batch)
        return found

    monkeypatch.setitem(stages, SCORER, counted)
    plain = ask(graph, "u1")
    assert methods == ["encode", "score"]
    assert all("explanation" not in item for item in plain["items"])
    explained = ask(graph, "u1", explain=True)
    assert methods == ["encode", "score", "encode", "score", "attribute"]
    assert all(item["explanation"]["history"] for item in explained["items"])


def test_a_scorer_that_cannot_attribute_leaves_the_slate_whole(
    graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one of an earlier revision, or one that breaks; it is named."""
    stages: Any = loaded(graph).stages
    scorer = stages[SCORER]

    def older(method: str, batch: Batch) -> Batch:
        if method == "attribute":
            raise ValueError("no such method")
        found: Batch = scorer(method, batch)
        return found

    monkeypatch.setitem(stages, SCORER, older)
    answer = ask(graph, "u1", explain=True)
    assert answer["degraded"] == ["explain: unavailable"]
    assert len(answer["items"]) == 10
    for item in answer["items"]:
        assert item["explanation"]["history"] is None
        assert item["explanation"]["features"] is None
        assert item["explanation"]["title"]


class Scorer:
    """A client that answers in one way, or only when it is told to."""

    def __init__(self, reply: Callable[[], Batch], until: asyncio.Event | None = None) -> None:
        self._reply = reply
        self._until = until
        self.n_calls = 0

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        assert (method, bundle_id) == ("attribute", BUNDLE)
        self.n_calls += 1
        if self._until is not None:
            await self._until.wait()
        return self._reply()


def reply() -> Batch:
    """One event that counts."""
    return {
        "places": np.asarray([[1, -1]], np.int32),
        "events": np.asarray([[[-0.25], [np.nan]]], np.float32),
        "features": np.asarray([[[1.0], [np.nan], [0.5], [0.0], [0.25]]], np.float32),
    }


def refusing(error: Exception) -> Callable[[], Batch]:
    """A reply that is an error."""

    def refuse() -> Batch:
        raise error

    return refuse


def an_answer(time_left_s: float = 30.0, *, is_scored: bool = True) -> Answer:
    """One explained item, of a user with one event."""
    request = RecommendRequest("u1", 1, explain=True)
    asked = Ask(request, "r1", "stable", NOW_MS, time.monotonic() + time_left_s)
    batch: Batch = {
        "items": np.asarray([[-1, 0]], np.int32), "kinds": np.asarray([[0, 2]], np.uint8)
    }  # fmt: skip
    items: Any = type("Items", (), {"item_ids": ["i0"], "titles": ["Title 0"]})()
    return Answer(
        ask=asked, bundle_id=BUNDLE, shown=Chosen(["i9"], [0.5], ["index"], [0.5], [0], [0]),
        propensities=[1.0], unshown=Chosen([], [], [], [], [], []),
        dropped=Dropped([], [], [], [], 0), coverage=1.0, degraded=("shard-001: timeout",),
        explanations=[Explanation("Title 9", "index", 0.5, 0, {}, 0, None)],
        history_version=1, history_items=(), stage_ms={"score": 1.0},
        to_attribute=ToAttribute(batch, items, FeatureSchema(("like",), 2, 8))
        if is_scored else None,
    )  # fmt: skip


def explained(scorer: Scorer, answer: Answer, timeout_s: float = 5.0) -> tuple[Answer, Telemetry]:
    """What an explainer makes of an answer."""
    telemetry = Telemetry()
    explainer = Explainer(scorer, timeout_s, telemetry)
    return asyncio.run(explainer.explain(answer)), telemetry


def test_contributions_come_with_their_sign_and_what_is_unknown_is_left_out() -> None:
    """The rest of the answer stays; the time it took stands beside the other stages'."""
    before = an_answer()
    answer, _ = explained(Scorer(reply), before)
    assert answer.explanations is not None
    (why,) = answer.explanations
    assert why.history is not None
    (cause,) = why.history
    assert (cause.item_id, cause.title, cause.kind) == ("i0", "Title 0", "like")
    assert cause.contribution == -0.25
    assert why.features == {
        "history": 1.0,
        "popularity": 0.5,
        "source": 0.0,
        "successors": 0.25,
    }
    assert answer.degraded == before.degraded
    assert set(answer.stage_ms) == {"score", "explain"}
    assert set(before.stage_ms) == {"score"}


@pytest.mark.parametrize(
    ("error", "changes", "reason", "n_calls"),
    [
        (TimeoutError(), {}, "explain: timeout", 1),
        (RuntimeError("dead"), {}, "explain: unavailable", 1),
        (BundleMiss("scorer lacks it"), {}, "explain: unavailable", 1),
        (None, {"time_left_s": 0.01}, "explain: timeout", 0),
        (None, {"time_left_s": -1.0}, "explain: timeout", 0),
        (None, {"is_scored": False}, "explain: unavailable", 0),
    ],
)
def test_an_answer_that_cannot_be_explained_is_an_answer_all_the_same(
    error: Exception | None, changes: dict[str, Any], reason: str, n_calls: int
) -> None:
    """Late, failed, without the bundle, near its deadline, or never scored: named and counted."""
    before = an_answer(**changes)
    scorer = Scorer(reply if error is None else refusing(error))
    answer, telemetry = explained(scorer, before)
    assert answer.degraded == ("shard-001: timeout", reason)
    assert answer.explanations == before.explanations
    assert answer.shown == before.shown
    assert scorer.n_calls == n_calls
    assert telemetry.take().counts["flywheel_degraded", (("reason", reason),)] == 1


def test_one_explanation_is_made_at_a_time_and_none_is_waited_for_too_long() -> None:
    """The second one is given up in its own time and the scorer never hears of it."""

    async def scenario() -> tuple[Answer, Answer, int]:
        until = asyncio.Event()
        scorer = Scorer(reply, until)
        explainer = Explainer(scorer, 20.0, Telemetry())
        first = asyncio.create_task(explainer.explain(an_answer()))
        while not scorer.n_calls:
            await asyncio.sleep(0)
        second = await explainer.explain(an_answer(time_left_s=0.06))
        n_calls = scorer.n_calls
        until.set()
        return await first, second, n_calls

    first, second, n_calls = asyncio.run(scenario())
    assert first.degraded == ("shard-001: timeout",)
    assert second.degraded == ("shard-001: timeout", "explain: timeout")
    assert n_calls == 1
