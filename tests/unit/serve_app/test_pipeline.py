"""The request path with real stages of a small bundle, some of them failing on purpose."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from recsys.errors import DeadlineExceeded, Overloaded, StoreError
from recsys.feature_definitions import NO_COUNTS, ItemCounts
from recsys.settings import Settings
from recsys.stages import stage_names
from recsys.stores.features.feature_store import CatalogueView, NeighbourChanges, NeighbourMark
from recsys.types import Batch, HistoryEvent, UserState
from serve_app.answers import impression_of
from serve_app.asks import Answer, Ask
from serve_app.http.recommend_requests import RecommendRequest
from serve_app.pipeline import Pipeline
from serve_app.residents.bundle_loading import BundleLoader, GatewayBundle, LoadedBundle
from serve_app.residents.live_items import LiveItems
from serve_app.stages.ladder import Rung
from serve_app.stages.placement import BundleMiss, FusedStage, StageClient
from serve_app.telemetry import Telemetry
from serve_app.user_reads import N_THREADS
from tests.bundles_for_tests import NOW_MS, publish_small, small_history, small_settings

N_ITEMS = 120


@dataclass
class Users:
    """A feature store in memory."""

    histories: Mapping[str, Sequence[HistoryEvent]] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()
    live: tuple[str, ...] = ()
    rising: tuple[str, ...] = ()
    pairs: Mapping[str, Sequence[tuple[str, float]]] = field(default_factory=dict)
    """The neighbours of items, best first."""
    is_away: bool = False
    stuck: Mapping[str, threading.Event] = field(default_factory=dict)
    """Reading one of these users waits for its event."""

    def read_users(self, user_ids: Sequence[str]) -> list[UserState]:
        if self.is_away:
            raise StoreError("feature store is away")
        for user_id in user_ids:
            if user_id in self.stuck:
                self.stuck[user_id].wait(10)
        return [UserState(name, tuple(self.histories.get(name, ())), 1) for name in user_ids]

    def popular(self, limit: int) -> list[tuple[str, float]]:
        return [(item_id, 1.0) for item_id in self.live[:limit]]

    def catalogue(self, since_version: int = 0) -> CatalogueView:
        return CatalogueView(1, self.blocked)

    def trending(self, limit: int) -> list[tuple[str, float]]:
        return [(item_id, 1.0) for item_id in self.rising[:limit]]

    def neighbours(self, item_ids: Sequence[str], limit: int) -> list[list[tuple[str, float]]]:
        return [list(self.pairs.get(item_id, ()))[:limit] for item_id in item_ids]

    def changed_neighbours(
        self, since: NeighbourMark, limit: int, max_lists: int
    ) -> NeighbourChanges:
        mark = NeighbourMark("memory", 1)
        if since == mark:
            return NeighbourChanges(mark)
        lists = {item_id: ranked[:limit] for item_id, ranked in self.pairs.items()}
        return NeighbourChanges(mark, lists, is_anew=True)

    def item_counts(self, item_ids: Sequence[str], now_ms: int) -> list[ItemCounts]:
        return [ItemCounts(item_id, NO_COUNTS) for item_id in item_ids]

    def offsets(self) -> dict[int, int]:
        return {}

    def close(self) -> None:
        pass


class Failing:
    """A stage that fails its calls in one way."""

    def __init__(self, error: Callable[[], Exception], only: str | None = None) -> None:
        self._error = error
        self._only = only
        self.inner: StageClient | None = None

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        if self._only is None or method == self._only:
            raise self._error()
        assert self.inner is not None
        return await self.inner.call(method, bundle_id, batch, timeout_s)


@dataclass
class Rig:
    """A pipeline over one loaded bundle."""

    loaded: LoadedBundle
    settings: Settings

    @property
    def bundle(self) -> GatewayBundle:
        assert self.loaded.gateway is not None
        return self.loaded.gateway

    def pipeline(
        self,
        users: Users | None = None,
        failing: Mapping[str, Failing] | None = None,
        wrap: Mapping[str, Callable[[StageClient], StageClient]] | None = None,
    ) -> tuple[Pipeline, Telemetry]:
        store = users or Users()
        stages: dict[str, StageClient] = {}
        for name in stage_names(2):
            fused = FusedStage(name, lambda _, name=name: self.loaded.stages[name])
            stages[name] = fused
            if failing and name in failing:
                failing[name].inner = fused
                stages[name] = failing[name]
            if wrap and name in wrap:
                stages[name] = wrap[name](stages[name])
        live = LiveItems(store, 100, self.settings.retrieval)
        live.refresh([(self.bundle.bundle_id, self.bundle.items)])
        telemetry = Telemetry()
        return Pipeline(stages, store, live, self.settings, telemetry), telemetry


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Rig:
    """A small bundle with all its stages, read only."""
    root = tmp_path_factory.mktemp("pipeline")
    settings = small_settings(root)
    manifest = publish_small(settings, root / "staging", n_items=N_ITEMS)
    loader = BundleLoader(settings, None, is_gateway=True)
    return Rig(loader.load(manifest.bundle_id), settings)


def an_ask(user_id: str = "u1", k: int = 10, **fields: object) -> Ask:
    """An ask with plenty of time."""
    request = RecommendRequest(user_id=user_id, k=k, **fields)  # type: ignore[arg-type]
    return Ask(request, f"request-{user_id}", "stable", NOW_MS, time.monotonic() + 30)


def narrow_rig(rig: Rig, log_dropped: int) -> Rig:
    """The same with lists of 30 candidates."""
    retrieval = rig.settings.retrieval.model_copy(
        update={"n_candidates": 30, "n_popular": 5, "n_fresh": 5}
    )
    serve = rig.settings.serve.model_copy(update={"log_dropped": log_dropped})
    changes = {"retrieval": retrieval, "serve": serve}
    return replace(rig, settings=rig.settings.model_copy(update=changes))


def run(
    pipeline: Pipeline,
    bundle: GatewayBundle,
    asks: Sequence[Ask],
    is_live: Callable[[int], bool] = lambda _: True,
    *,
    may_miss: bool = False,
    rung: Rung = Rung.WHOLE,
) -> list[Answer | Exception]:
    """Answer a batch."""
    return asyncio.run(pipeline.answer(bundle, asks, is_live, may_miss=may_miss, rung=rung))


def answer_of(answers: list[Answer | Exception]) -> Answer:
    """The only answer, which must be one."""
    assert len(answers) == 1
    assert isinstance(answers[0], Answer), answers[0]
    return answers[0]


def test_a_healthy_graph_answers_whole_slates_with_full_coverage(rig: Rig) -> None:
    """Items are distinct, in order of position, with a propensity each."""
    pipeline, _ = rig.pipeline(Users({"u1": small_history(1, N_ITEMS)}))
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=12)]))
    assert len(set(answer.shown.item_ids)) == 12
    assert len(answer.propensities) == 12
    assert all(0 < propensity <= 1 for propensity in answer.propensities)
    assert (answer.coverage, answer.degraded) == (1.0, ())
    assert set(answer.stage_ms) == {"features", "encode", "retrieval", "score", "order"}
    items = rig.bundle.items
    shown = items.rows_of(answer.shown.item_ids)
    assert answer.novelty == pytest.approx(items.traits.bits[shown].mean())
    assert answer.diversity is None or 0 <= answer.diversity <= 1
    assert len(answer.unshown.item_ids) == rig.settings.serve.log_unshown
    assert not set(answer.unshown.item_ids) & set(answer.shown.item_ids)
    assert answer.unshown.score_ranks == sorted(answer.unshown.score_ranks)


def test_what_the_list_had_no_place_for_is_drawn_for_the_log(rig: Rig) -> None:
    """Retrieved, neither shown nor scored; of all there were, and none where it is switched off."""
    narrow = narrow_rig(rig, log_dropped=4)
    users = Users({"u1": small_history(1, N_ITEMS)})
    answer = answer_of(run(narrow.pipeline(users)[0], rig.bundle, [an_ask(k=5)]))
    dropped = answer.dropped
    assert len(set(dropped.item_ids)) == 4
    assert dropped.n_dropped >= 4
    assert set(dropped.sources) == {"index"}
    assert dropped.retrieval_ranks == sorted(dropped.retrieval_ranks)
    seen = {event.item_id for event in users.histories["u1"]}
    assert not set(dropped.item_ids) & {*answer.shown.item_ids, *answer.unshown.item_ids, *seen}
    both = run(narrow.pipeline(users)[0], rig.bundle, [an_ask("u2"), an_ask(k=5)])
    assert isinstance(both[1], Answer)
    assert both[1].dropped.item_ids == dropped.item_ids
    off = narrow_rig(rig, log_dropped=0)
    none = answer_of(run(off.pipeline(users)[0], rig.bundle, [an_ask(k=5)])).dropped
    assert (none.item_ids, none.n_dropped) == ([], 0)


def test_an_unknown_user_gets_an_answer(rig: Rig) -> None:
    """Cold start is not an error."""
    pipeline, _ = rig.pipeline()
    assert len(answer_of(run(pipeline, rig.bundle, [an_ask("nobody")])).shown.item_ids) == 10


def test_seen_excluded_and_deleted_items_are_never_answered(rig: Rig) -> None:
    """Even where little else is left."""
    history = [HistoryEvent(f"i{n}", "click", NOW_MS - 1000 * (100 - n)) for n in range(90)]
    users = Users({"u1": history}, blocked=frozenset({"i119", "i118"}))
    pipeline, _ = rig.pipeline(users)
    ask = an_ask(k=200, exclude_item_ids=("i117", "no such item"))
    shown = set(answer_of(run(pipeline, rig.bundle, [ask])).shown.item_ids)
    assert shown
    assert shown <= {f"i{n}" for n in range(90, 117)}


def test_an_answer_does_not_depend_on_its_batch(rig: Rig) -> None:
    """Batching is for speed only."""
    users = Users({f"u{n}": small_history(n, N_ITEMS, n) for n in range(8)})
    pipeline, _ = rig.pipeline(users)
    asks = [an_ask(f"u{n}", k=5 + n) for n in range(8)]
    together = run(pipeline, rig.bundle, asks)
    for ask, batched in zip(asks, together, strict=True):
        alone = answer_of(run(pipeline, rig.bundle, [ask]))
        assert isinstance(batched, Answer)
        assert alone.shown.item_ids == batched.shown.item_ids
        assert alone.propensities == pytest.approx(batched.propensities)


def test_what_is_popular_now_is_a_source_of_its_own(rig: Rig) -> None:
    """Live popularity comes before the bundle's own."""
    pipeline, _ = rig.pipeline(Users(live=("i7", "unheard of", "i9")))
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=40)]))
    source_of = dict(zip(answer.shown.item_ids, answer.shown.sources, strict=True))
    assert {"popular", "fresh", "index"} >= set(source_of.values())
    ranks = dict(zip(answer.shown.item_ids, answer.shown.retrieval_ranks, strict=True))
    for rank, item_id in enumerate(("i7", "i9")):
        if source_of.get(item_id) == "popular":
            assert ranks[item_id] == rank


def test_neighbours_of_the_newest_items_are_a_source(rig: Rig) -> None:
    """Of what a user engaged with, in no negative way; what the index holds stays the index's."""
    pairs = {"i1": [("unheard of", 0.95), *((f"i{n}", n / 100) for n in range(79, 69, -1))]}
    newest = HistoryEvent("i1", "click", NOW_MS - 1000)
    histories = {"u1": [newest], "u2": [HistoryEvent("i1", "dismiss", NOW_MS - 1000)]}
    served = with_few_candidates(rig)
    sources = sources_of(served, Users(histories, pairs=pairs), ("u1", "u2", "nobody"))
    brought = [sources[0].get(f"i{n}") for n in range(70, 80)]
    assert set(brought) <= {"neighbours", "index", "fresh"}
    assert brought.count("neighbours") > 4
    assert all("neighbours" not in one.values() for one in sources[1:])
    off = with_few_candidates(rig, n_neighbours=0)
    assert all(
        "neighbours" not in one.values()
        for one in sources_of(off, Users(histories, pairs=pairs), ("u1",))
    )


def test_what_is_trending_is_a_source(rig: Rig) -> None:
    """For everybody, before what is popular, and never what was deleted."""
    names = [f"i{n}" for n in range(20, 32)]
    store = Users(rising=("unheard of", "i19", *names), live=("i20",), blocked=frozenset({"i19"}))
    for one in sources_of(with_few_candidates(rig), store, ("u1", "nobody")):
        assert "i19" not in one
        assert {one.get(name, "trending") for name in names[:10]} <= {"trending", "index"}
        assert one["i20"] != "popular"
        assert list(one.values()).count("trending") > 3
    for one in sources_of(with_few_candidates(rig, n_trending=0), store, ("u1",)):
        assert "trending" not in one.values()


def with_few_candidates(rig: Rig, **retrieval: int) -> Rig:
    """The same with lists that the other sources fill to two thirds."""
    changed = rig.settings.retrieval.model_copy(update={"n_candidates": 30, **retrieval})
    return replace(rig, settings=rig.settings.model_copy(update={"retrieval": changed}))


def sources_of(rig: Rig, store: Users, user_ids: Sequence[str]) -> list[dict[str, str]]:
    """The source of every candidate that each of these users is answered."""
    answers = run(rig.pipeline(store)[0], rig.bundle, [an_ask(name, k=30) for name in user_ids])
    whole = [answer_of([answer]).shown for answer in answers]
    return [dict(zip(shown.item_ids, shown.sources, strict=True)) for shown in whole]


@pytest.mark.parametrize(
    ("stage", "error", "only", "reason", "coverage"),
    [
        ("shard-001", TimeoutError, None, "shard-001: timeout", 0.5),
        ("shard-000", lambda: RuntimeError("dead"), None, "shard-000: unavailable", 0.5),
        ("scorer", lambda: RuntimeError("dead"), "score", "scorer: unavailable", 1.0),
        ("ordering", TimeoutError, None, "ordering: timeout", 1.0),
        ("scorer", TimeoutError, "encode", "encode: timeout", 0.0),
    ],
)
def test_a_stage_that_fails_degrades_the_answer_and_is_named(
    rig: Rig,
    stage: str,
    error: Callable[[], Exception],
    only: str | None,
    reason: str,
    coverage: float,
) -> None:
    """Whatever dies, the user gets a slate."""
    pipeline, telemetry = rig.pipeline(
        Users({"u1": small_history(1, N_ITEMS)}), {stage: Failing(error, only)}
    )
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=8)]))
    assert len(set(answer.shown.item_ids)) == 8
    assert answer.coverage == coverage
    assert reason in answer.degraded
    counts = telemetry.take().counts
    assert counts["flywheel_degraded", (("reason", reason),)] == 1


class Counted:
    """A stage that counts its calls by method, with how many candidates each has."""

    def __init__(self, inner: StageClient, calls: dict[str, int]) -> None:
        self._inner = inner
        self._calls = calls

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        rows = batch.get("rows")
        self._calls[method] = 0 if rows is None else rows.shape[1]
        return await self._inner.call(method, bundle_id, batch, timeout_s)


@pytest.mark.parametrize(
    ("rung", "asked", "coverage"),
    [
        (Rung.FEWER, {"encode": 0, "search": 0, "score": 20, "order": 20}, 1.0),
        (Rung.UNSCORED, {"encode": 0, "search": 0, "order": 20}, 1.0),
        (Rung.POPULAR, {}, 0.0),
    ],
)
def test_every_rung_of_the_ladder_asks_for_less_and_says_so(
    rig: Rig, rung: Rung, asked: dict[str, int], coverage: float
) -> None:
    """The slate is whole, nothing seen is in it, and the answer, its log and a counter name it."""
    calls: dict[str, int] = {}
    wrap = {name: lambda inner: Counted(inner, calls) for name in stage_names(2)}
    users = Users({"u1": small_history(1, N_ITEMS)})
    pipeline, telemetry = rig.pipeline(users, wrap=wrap)
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=8)], rung=rung))
    assert calls == asked
    assert len(set(answer.shown.item_ids)) == 8
    seen = {event.item_id for event in users.histories["u1"]}
    assert not seen & set(answer.shown.item_ids)
    assert (answer.degraded, answer.coverage) == ((rung.reason,), coverage)
    assert impression_of(answer, "e1").degraded == (rung.reason,)
    assert telemetry.take().counts["flywheel_degraded", (("reason", rung.reason),)] == 1


def test_fewer_candidates_are_never_fewer_than_asked_for(rig: Rig) -> None:
    """A long slate stays long."""
    pipeline, _ = rig.pipeline()
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=35)], rung=Rung.FEWER))
    assert len(answer.shown.item_ids) == 35


def test_without_a_scorer_the_order_of_retrieval_is_served(rig: Rig) -> None:
    """Every propensity still is that of the policy that was run."""
    failing = {"scorer": Failing(lambda: RuntimeError("dead"), "score")}
    pipeline, _ = rig.pipeline(failing=failing)
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=30)]))
    assert answer.shown.scores == [1 - rank / 39 for rank in answer.shown.score_ranks] or (
        pytest.approx([1 - rank / 39 for rank in answer.shown.score_ranks]) == answer.shown.scores
    )


class Diverged:
    """A scorer without a finite estimate for the users in some places of a batch."""

    def __init__(self, inner: StageClient, *places: int) -> None:
        self._inner = inner
        self._places = list(places)

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        answer = await self._inner.call(method, bundle_id, batch, timeout_s)
        if method != "score":
            return answer
        utility, probabilities = answer["utility"].copy(), answer["probabilities"].copy()
        utility[self._places], probabilities[self._places] = -np.inf, np.nan
        return {**answer, "utility": utility, "probabilities": probabilities}


def test_scores_that_are_not_finite_are_named_and_retrieval_stands_in(rig: Rig) -> None:
    """A whole slate for the user concerned, counted once; nothing of it at the neighbour."""
    pipeline, telemetry = rig.pipeline(wrap={"scorer": lambda inner: Diverged(inner, 0)})
    asks = [an_ask("u1", k=8, explain=True), an_ask("u2", k=8, explain=True)]
    first, second = run(pipeline, rig.bundle, asks)
    assert isinstance(first, Answer)
    assert isinstance(second, Answer)
    assert first.degraded == ("score: not finite",)
    assert second.degraded == ()
    assert len(set(first.shown.item_ids)) == len(set(second.shown.item_ids)) == 8
    assert first.shown.scores == pytest.approx([1 - n / 39 for n in first.shown.score_ranks])
    assert first.explanations is not None
    assert first.explanations[0].action_probabilities == {}
    assert second.explanations is not None
    assert second.explanations[0].action_probabilities
    counts = telemetry.take().counts
    assert counts["flywheel_degraded", (("reason", "score: not finite"),)] == 1


def test_without_ordering_the_slate_is_by_score_and_without_chance(rig: Rig) -> None:
    """A deterministic policy has propensity 1."""
    pipeline, _ = rig.pipeline(failing={"ordering": Failing(TimeoutError)})
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=9)]))
    assert answer.shown.score_ranks == list(range(9))
    assert answer.propensities == [1.0] * 9


def test_without_features_the_user_is_answered_as_unknown(rig: Rig) -> None:
    """The feature store may be away."""
    pipeline, _ = rig.pipeline(Users({"u1": small_history(1, N_ITEMS)}, is_away=True))
    answer = answer_of(run(pipeline, rig.bundle, [an_ask()]))
    assert answer.degraded == ("features: unavailable",)
    stranger, _ = rig.pipeline()
    expected = answer_of(run(stranger, rig.bundle, [an_ask()]))
    assert answer.shown.item_ids == expected.shown.item_ids


def test_a_server_that_keeps_a_read_waiting_degrades_that_batch_and_no_other(rig: Rig) -> None:
    """The read is given up in its time, meanwhile others are answered, and it is counted."""
    served = with_a_server(rig, timeout_ms=300)
    never = threading.Event()
    histories = {"slow": small_history(1, N_ITEMS), "quick": small_history(2, N_ITEMS)}
    pipeline, telemetry = served.pipeline(Users(histories, stuck={"slow": never}))

    async def both() -> tuple[Answer, Answer, bool]:
        slow = asyncio.create_task(answer_one(pipeline, served.bundle, "slow"))
        quick = await answer_one(pipeline, served.bundle, "quick")
        was_waiting = not slow.done()
        return await slow, quick, was_waiting

    try:
        slow, quick, was_waiting = asyncio.run(both())
    finally:
        never.set()
    assert was_waiting
    assert quick.degraded == ()
    assert quick.history_version == 1
    assert slow.degraded == ("features: unavailable",)
    assert slow.history_version == 0
    assert len(slow.shown.item_ids) == 10
    reason = (("reason", "features: unavailable"),)
    assert telemetry.take().counts["flywheel_degraded", reason] == 1


def test_more_stuck_reads_than_threads_are_given_up_in_time(rig: Rig) -> None:
    """A read that never began is cancelled as well; afterwards reads work again."""
    served = with_a_server(rig, timeout_ms=100)
    names = [f"slow{n}" for n in range(2 * N_THREADS)]
    until = threading.Event()
    pipeline, _ = served.pipeline(Users(stuck=dict.fromkeys(names, until)))

    async def all_of_them() -> tuple[list[Answer], Answer]:
        asks = (answer_one(pipeline, served.bundle, name) for name in names)
        stuck = await asyncio.gather(*asks)
        until.set()
        return stuck, await answer_one(pipeline, served.bundle, "quick")

    stuck, quick = asyncio.run(all_of_them())
    assert {answer.degraded for answer in stuck} == {("features: unavailable",)}
    assert quick.degraded == ()


def with_a_server(rig: Rig, timeout_ms: int) -> Rig:
    """The same bundle, its features on a server."""
    features = rig.settings.features.model_copy(
        update={"backend": "redis", "redis_timeout_ms": timeout_ms}
    )
    return replace(rig, settings=rig.settings.model_copy(update={"features": features}))


async def answer_one(pipeline: Pipeline, bundle: GatewayBundle, user_id: str) -> Answer:
    """One user's answer, in a batch of its own."""
    answers = await pipeline.answer(bundle, [an_ask(user_id)], lambda _: True, may_miss=False)
    return answer_of(answers)


def test_without_any_source_the_request_is_refused(rig: Rig) -> None:
    """The one thing that cannot be degraded: every item is taken out and no shard answers."""
    everything = frozenset(f"i{n}" for n in range(N_ITEMS))
    failing = {name: Failing(TimeoutError) for name in ("shard-000", "shard-001")}
    pipeline, _ = rig.pipeline(Users(blocked=everything), failing)
    (answer,) = run(pipeline, rig.bundle, [an_ask()])
    assert isinstance(answer, Overloaded)
    assert "shard-000: timeout" in str(answer)


def test_an_empty_catalogue_is_an_empty_slate(rig: Rig) -> None:
    """Nothing left to show is an answer."""
    pipeline, _ = rig.pipeline(Users(blocked=frozenset(f"i{n}" for n in range(N_ITEMS))))
    answer = answer_of(run(pipeline, rig.bundle, [an_ask()]))
    assert answer.shown.item_ids == []
    assert answer.degraded == ()


def test_a_stage_without_the_bundle_fails_the_whole_request_where_another_bundle_can_answer(
    rig: Rig,
) -> None:
    """One request is never answered by two bundles."""
    failing = {"shard-001": Failing(lambda: BundleMiss("shard-001 lacks it"))}
    pipeline, telemetry = rig.pipeline(failing=failing)
    answers = run(pipeline, rig.bundle, [an_ask("u1"), an_ask("u2")], may_miss=True)
    assert [type(answer) for answer in answers] == [BundleMiss, BundleMiss]
    assert telemetry.take().counts["flywheel_bundle_miss", (("bundle_id", "b0000"),)] == 2


def test_callers_that_left_are_not_scored_and_their_neighbours_are(rig: Rig) -> None:
    """Work is dropped at the costly stage."""
    pipeline, _ = rig.pipeline()
    answers = run(
        pipeline, rig.bundle, [an_ask("u1"), an_ask("u2"), an_ask("u3")], lambda i: i != 1
    )
    assert isinstance(answers[1], DeadlineExceeded)
    for user_id, answer in (("u1", answers[0]), ("u3", answers[2])):
        assert isinstance(answer, Answer)
        assert answer.ask.request.user_id == user_id
        alone = answer_of(run(pipeline, rig.bundle, [an_ask(user_id)]))
        assert answer.shown.item_ids == alone.shown.item_ids


def test_explanations_tell_source_rank_probabilities_and_what_moved_an_item(rig: Rig) -> None:
    """Items that kept their place by score were moved by nothing."""
    pipeline, _ = rig.pipeline(Users({"u1": small_history(1, N_ITEMS)}))
    answer = answer_of(run(pipeline, rig.bundle, [an_ask(k=20, explain=True)]))
    assert answer.explanations is not None
    assert len(answer.explanations) == 20
    for item_id, explanation, propensity in zip(
        answer.shown.item_ids, answer.explanations, answer.propensities, strict=True
    ):
        assert explanation.title == f"Title {item_id[1:]}"
        assert set(explanation.action_probabilities) == {"click", "like", "dismiss"}
        assert (explanation.moved_by == "exploration") == (propensity < 0.95 - 1e-6)
    first = answer.explanations[0]
    if first.score_rank == 0:
        assert first.moved_by is None
