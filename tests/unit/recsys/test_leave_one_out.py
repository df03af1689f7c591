"""Contributions against brute force: the event really taken out, encoded and scored anew."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features import FIRST_KIND
from recsys.item_successors import ItemSuccessors
from recsys.leave_one_out import attribute, newest_places, without_each
from recsys.scorer import CandidateScorer, item_popularity, wanted_items
from recsys.scorer_network import ScorerConfig, ScorerNetwork
from recsys.stages import ATTRIBUTED
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Batch

N_ITEMS, DIM, LENGTH, N_CANDIDATES = 40, 16, 24, 7
KINDS = ("view", "like", "dismiss")
Event = tuple[int, int, float]
"""Row, kind and age in seconds."""


def a_world(tower_length: int = LENGTH) -> tuple[UserEncoder, CandidateScorer]:
    """Towers and a scorer with random weights everywhere, so that everything counts."""
    torch.manual_seed(5)
    tower_config = TowerConfig(
        n_items=N_ITEMS, embedding_dim=DIM, n_layers=1, n_heads=2, history_length=tower_length,
        kinds=KINDS, n_content_buckets=16,
    )  # fmt: skip
    content = np.random.default_rng(0).integers(0, 16, (N_ITEMS, 4)).astype(np.int32)
    model = TwoTower(tower_config, content, np.ones(N_ITEMS, np.bool_))
    config = ScorerConfig(
        n_items=N_ITEMS, embedding_dim=DIM, hidden_dims=(32, 16), actions=KINDS,
        utility_weights=(1.0, 2.0, -1.0), score_center=0.2, score_spread=2.0, user_scale=1.0,
        vector_scale=2.0, blend=0.7, slope=0.7, offset=-1.0, action_log_odds=(1.0, -1.0, -2.0),
        action_trust=(1.0, 0.5, 1.0), is_negative=(False, False, True), acted_rate=0.05,
        n_sources=5, reads_successors=True, chance_center=-4.0, chance_spread=2.0,
    )  # fmt: skip
    network = ScorerNetwork(config)
    with torch.no_grad():
        for weights in network.parameters():
            weights.add_(0.3 * torch.randn(weights.shape))
    popularity = torch.from_numpy(item_popularity(np.arange(N_ITEMS)))
    vectors = torch.from_numpy(model.item_vectors())
    followed = [np.random.default_rng(n).permutation(N_ITEMS)[:6] for n in range(N_ITEMS)]
    successors = ItemSuccessors(
        np.arange(0, 6 * N_ITEMS + 1, 6),
        np.concatenate(followed).astype(np.int32),
        np.full(6 * N_ITEMS, 1 / 6, np.float32),
        np.full(N_ITEMS, 1 / N_ITEMS, np.float32),
    )
    scorer = CandidateScorer(config, network.eval(), vectors, popularity, successors)
    return UserEncoder.of(model), scorer


def some_events(n_events: int, seed: int = 0) -> list[Event]:
    """A history, oldest event first."""
    rng = np.random.default_rng(seed)
    ages_s = np.sort(rng.integers(1, 10**6, n_events))[::-1]
    return [
        (int(rng.integers(N_ITEMS)), int(rng.integers(1, FIRST_KIND + len(KINDS))), float(age_s))
        for age_s in ages_s
    ]


def arrays_of(events: list[Event]) -> Batch:
    """The history as arrays [1, L], one event after the other."""
    history: Batch = {
        "items": np.full((1, LENGTH), -1, np.int32),
        "kinds": np.zeros((1, LENGTH), np.uint8),
        "ages_s": np.zeros((1, LENGTH), np.float32),
    }
    for place, (row, kind, age_s) in enumerate(events, start=LENGTH - len(events)):
        history["items"][0, place] = row
        history["kinds"][0, place] = kind
        history["ages_s"][0, place] = age_s
    return history


def candidates_of(seed: int = 0, n: int = N_CANDIDATES) -> Batch:
    """Candidates of one request from every source."""
    rng = np.random.default_rng(seed)
    return {
        "rows": rng.permutation(N_ITEMS)[None, :n].astype(np.int32),
        "sources": (np.arange(n) % 5).astype(np.int8)[None],
        "ranks": rng.integers(0, 50, (1, n)).astype(np.int32),
    }


def a_request(events: list[Event], n_events: int = LENGTH, seed: int = 0) -> Batch:
    """What `attribute` is asked."""
    asked = np.asarray([n_events], np.int32)
    return {**arrays_of(events), **candidates_of(seed), "n_events": asked}


def utility(
    encoder: UserEncoder, scorer: CandidateScorer, events: list[Event], candidates: Batch
) -> np.ndarray:
    """What the two stages make of a history, [K]."""
    history = arrays_of(events)
    scored = scorer.score({**history, "user_emb": encoder.encode(history), **candidates})
    found: np.ndarray = scored["utility"][0]
    return found


@pytest.mark.parametrize("tower_length", [LENGTH, 6])
@pytest.mark.parametrize("n_events", [0, 1, 9, LENGTH])
def test_a_contribution_is_what_truly_leaving_the_event_out_changes(
    tower_length: int, n_events: int
) -> None:
    """Of every event, also where the tower reads fewer than there are."""
    encoder, scorer = a_world(tower_length)
    events = some_events(n_events)
    found = attribute(encoder, scorer, a_request(events))
    whole = utility(encoder, scorer, events, candidates_of())
    newest_first = range(n_events - 1, -1, -1)
    assert found["places"][0, :n_events].tolist() == [LENGTH - n_events + e for e in newest_first]
    assert (found["places"][0, n_events:] == -1).all()
    assert np.isnan(found["events"][0, n_events:]).all()
    for r, event in enumerate(newest_first):
        without = [kept for n, kept in enumerate(events) if n != event]
        expected = whole - utility(encoder, scorer, without, candidates_of())
        np.testing.assert_allclose(found["events"][0, r], expected, rtol=2e-3, atol=2e-6)
    if n_events:
        assert np.abs(found["events"][0, 0]).max() > 1e-3


def test_an_older_event_takes_the_place_of_one_that_the_tower_read() -> None:
    """The tower reads its newest few; what it would have read instead counts."""
    encoder, scorer = a_world(tower_length=6)
    before = some_events(9)
    other = [(before[2][0] ^ 1, 2, before[2][2]), *before[3:]]
    changed = [*before[:2], *other]
    first, second = (attribute(encoder, scorer, a_request(events)) for events in (before, changed))
    assert np.abs(first["events"] - second["events"])[0, :6].max() > 1e-4


def test_an_item_that_is_twice_in_the_history_is_left_out_once_at_a_time() -> None:
    """Each of its events counts for itself."""
    encoder, scorer = a_world()
    events = some_events(5)
    events[1] = (events[3][0], events[3][1], events[1][2])
    found = attribute(encoder, scorer, a_request(events))
    whole = utility(encoder, scorer, events, candidates_of())
    for r, event in ((1, 3), (3, 1)):
        without = [kept for n, kept in enumerate(events) if n != event]
        expected = whole - utility(encoder, scorer, without, candidates_of())
        np.testing.assert_allclose(found["events"][0, r], expected, rtol=2e-3, atol=2e-6)
    assert not np.allclose(found["events"][0, 1], found["events"][0, 3], atol=1e-5)


def test_without_the_top_event_the_utility_falls_by_what_was_claimed() -> None:
    """What is claimed of a whole request can be tried on any single item."""
    encoder, scorer = a_world()
    for seed in range(10):
        events = some_events(4 + 2 * seed, seed)
        found = attribute(encoder, scorer, a_request(events, n_events=20, seed=seed))
        top = int(np.nanargmax(np.abs(found["events"][0, :, 0])))
        without = [kept for n, kept in enumerate(events) if n != len(events) - 1 - top]
        (before, after) = (
            utility(encoder, scorer, past, candidates_of(seed))[0] for past in (events, without)
        )
        assert before - after == pytest.approx(found["events"][0, top, 0], rel=2e-3, abs=2e-6)


def test_a_feature_counts_what_the_score_is_without_it() -> None:
    """History of a new user, popularity and retrieval score of the mean item, no known source."""
    encoder, scorer = a_world()
    events, candidates = some_events(8), candidates_of()
    found = attribute(encoder, scorer, a_request(events))["features"][0]
    whole = utility(encoder, scorer, events, candidates)
    history = arrays_of(events)
    scores = scorer.score({**history, "user_emb": encoder.encode(history), **candidates})
    unpopular = torch.zeros_like(scorer.popularity)
    mean = CandidateScorer(
        scorer.config, scorer.network, scorer.vectors, unpopular, scorer.successors
    )
    of_none = {**candidates, "sources": np.full_like(candidates["sources"], 5)}
    expected = {
        "history": whole - utility(encoder, scorer, [], candidates),
        "popularity": whole - utility(encoder, mean, events, candidates),
        "source": whole - utility(encoder, scorer, events, of_none),
    }
    for name, contributions in expected.items():
        assert np.abs(contributions).max() > 1e-3
        np.testing.assert_allclose(
            found[ATTRIBUTED.index(name)], contributions, rtol=2e-3, atol=2e-6
        )
    for item, score in enumerate(scores["retrieval_scores"][0].tolist()):
        config = replace(scorer.config, score_center=score)
        at_mean = scorer.with_network(config, scorer.network)
        expected_of_score = whole[item] - utility(encoder, at_mean, events, candidates)[item]
        claimed = found[ATTRIBUTED.index("retrieval_score"), item]
        assert claimed == pytest.approx(expected_of_score, rel=2e-3, abs=2e-6)
    assert scorer.successors is not None
    wanted = wanted_items(history["items"], history["kinds"], scorer.config.is_negative)
    chances = scorer.successors.log_chances(wanted, candidates["rows"])
    for item, chance in enumerate(chances[0].tolist()):
        at_mean = scorer.with_network(replace(scorer.config, chance_center=chance), scorer.network)
        expected_of_it = whole[item] - utility(encoder, at_mean, events, candidates)[item]
        claimed = found[ATTRIBUTED.index("successors"), item]
        assert claimed == pytest.approx(expected_of_it, rel=2e-3, abs=2e-6)


def test_a_request_is_attributed_alike_alone_and_in_a_batch() -> None:
    """Histories of other lengths beside it change nothing."""
    encoder, scorer = a_world()
    alone = [a_request(some_events(n, n), n_events=6, seed=n) for n in (0, 3, LENGTH)]
    batch = {
        name: alone[0][name] if name == "n_events" else np.concatenate([one[name] for one in alone])
        for name in alone[0]
    }
    together = attribute(encoder, scorer, batch)
    assert together["events"].shape == (3, 6, N_CANDIDATES)
    assert together["features"].shape == (3, len(ATTRIBUTED), N_CANDIDATES)
    for n, request in enumerate(alone):
        for name, values in attribute(encoder, scorer, request).items():
            np.testing.assert_array_equal(together[name][n], values[0])


def test_nothing_is_said_of_padding_and_of_estimates_that_are_not_finite() -> None:
    """The other items of the slate are explained all the same."""
    encoder, scorer = a_world()
    request = a_request([(1, 2, 50.0), (2, 3, 9.0)])
    request["rows"][0, :3] = (-1, 30, 31)
    request["rows"][0, 3:] = (5, 6, 7, 8)
    scorer.vectors[30] = torch.nan
    found = attribute(encoder, scorer, request)
    for name in ("events", "features"):
        is_said = np.isfinite(found[name][0, :2])
        assert (is_said == [False, False, True, True, True, True, True]).all()
    empty = attribute(encoder, scorer, {**request, **candidates_of(n=0)})
    assert empty["events"].shape == (1, LENGTH, 0)


@given(
    n_events=st.integers(0, LENGTH), wanted=st.integers(0, LENGTH + 5), seed=st.integers(0, 10_000)
)
@settings(deadline=None, max_examples=50)
def test_leaving_out_moves_older_events_up_and_changes_no_other(
    n_events: int, wanted: int, seed: int
) -> None:
    """The arrays are those of the history without the event."""
    events = some_events(n_events, seed)
    history = arrays_of(events)
    places = newest_places(history["items"], wanted)[0]
    assert len(places) == min(wanted, LENGTH)
    tried = places[places >= 0]
    assert tried.tolist() == list(range(LENGTH - 1, LENGTH - 1 - min(wanted, n_events), -1))
    variants = without_each(history, np.append(tried, -1).astype(np.int32))
    for n, place in enumerate(tried.tolist()):
        gone = place - (LENGTH - n_events)
        expected = arrays_of([*events[:gone], *events[gone + 1 :]])
        for name, array in expected.items():
            assert variants[name].dtype == array.dtype
            np.testing.assert_array_equal(variants[name][n], array[0])
    for name, array in history.items():
        np.testing.assert_array_equal(variants[name][-1], array[0])
