"""Between the stages nothing leaks: what the scorer reads of an item does not depend on whether
retrieval chose it, and no label reaches what is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.scorer import CandidateScorer, item_popularity
from recsys.scorer_network import ScorerConfig, ScorerInputs, ScorerNetwork
from recsys.settings import RetrievalSettings, Settings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import UserEncoder
from recsys.types import Batch, Item, Source
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking.count_successors import count_successors
from train_app.learning.ranking.label_free_counts import label_free, label_free_counts
from train_app.learning.ranking.scorer_examples import (
    ScorerExamples,
    collect_examples,
    held_back_events,
)

torch.set_num_threads(1)  # the networks are tiny: threads would only wait for each other

N_USERS, N_ITEMS, N_EACH, DIM = 10, 60, 20, 16
KINDS = ("view", "like", "dismiss")
CHOSEN = Settings(
    retrieval=RetrievalSettings(n_candidates=12, n_popular=3, n_neighbours=2, n_trending=2)
)
Row = tuple[str, str, str, int]
"""User, item, kind, time in ms."""


def some_rows() -> list[Row]:
    """Ten users who met twenty items each, one a minute, and liked or dismissed some of them."""
    rows: list[Row] = []
    for user in range(N_USERS):
        for place in range(N_EACH):
            item, at_ms = f"i{(user * 3 + place) % N_ITEMS}", place * 60_000 + user
            rows.append((f"u{user}", item, "view", at_ms))
            if (user + place) % 4 == 0:
                rows.append((f"u{user}", item, KINDS[1 + place % 2], at_ms + 1_000))
    return rows


def log_of(rows: list[Row]) -> Interactions:
    """These engagements over a catalogue in which some items have none."""
    users, items, kinds, times = zip(*rows, strict=True)
    catalogue = [Item(f"i{n}") for n in range(N_ITEMS)]
    log = interactions_from_columns(users, items, kinds, times, items=catalogue)
    renamed = np.asarray([KINDS.index(kind) for kind in log.kinds], np.uint8)
    return replace(log, kinds=KINDS, kind_ids=renamed[log.kind_ids])


@dataclass(frozen=True)
class Stages:
    """Towers and the inputs of a scorer over a log."""

    encoder: UserEncoder
    vectors: np.ndarray

    @classmethod
    def of_seed(cls, seed: int = 1) -> Stages:
        """Untrained towers."""
        torch.manual_seed(seed)
        config = TowerConfig(N_ITEMS, DIM, 1, 2, 8, KINDS, 16)
        content = np.full((N_ITEMS, 1), -1, np.int32)
        model = TwoTower(config, content, np.ones(N_ITEMS, dtype=bool)).eval()
        return cls(UserEncoder.of(model), model.item_vectors())

    def examples(self, log: Interactions, events: np.ndarray) -> ScorerExamples:
        """As training collects them."""
        return collect_examples(log, events, self.encoder, self.vectors, CHOSEN)

    def read(self, log: Interactions, held: np.ndarray, batch: Batch) -> ScorerInputs:
        """What the scorer's network reads of a batch, as training makes it."""
        n = len(KINDS)
        config = ScorerConfig(
            n_items=N_ITEMS, embedding_dim=DIM, hidden_dims=(8,), actions=KINDS,
            utility_weights=(1.0,) * n, score_center=0.1, score_spread=2.0, user_scale=1.0,
            vector_scale=1.0, action_log_odds=(0.0,) * n, action_trust=(1.0,) * n,
            is_negative=(False, False, True), n_sources=len(Source), reads_successors=True,
        )  # fmt: skip
        is_free = label_free(log, held)
        popularity = torch.from_numpy(item_popularity(label_free_counts(log, is_free)))
        successors = count_successors(log, is_free, CHOSEN.events.negative_kinds)
        scorer = CandidateScorer(
            config, ScorerNetwork(config), torch.from_numpy(self.vectors), popularity, successors
        )
        return scorer.inputs(batch)[0]


N_OWN_SIDE = 2
"""Side features that are no source's: the retrieval score and the popularity."""


def test_what_is_read_of_an_item_is_the_same_whether_or_not_a_source_proposed_it() -> None:
    """Every item of the catalogue has every feature; only source and rank are retrieval's word."""
    log, stages = log_of(some_rows()), Stages.of_seed()
    held = held_back_events(log, np.random.default_rng(0))
    examples = stages.examples(log, held)
    proposed = stages.read(log, held, examples.batch())
    shape = (len(examples), N_ITEMS)
    everything: Batch = {
        **examples.batch(),
        "rows": np.broadcast_to(np.arange(N_ITEMS, dtype=np.int32), shape).copy(),
        "sources": np.full(shape, len(Source), np.int8),
        "ranks": np.full(shape, -1, np.int32),
    }
    whole = stages.read(log, held, everything)
    assert set(everything) == {"items", "kinds", "ages_s", "user_emb", "rows", "sources", "ranks"}
    for name, values in whole._asdict().items():
        assert torch.isfinite(values.float()).all(), name
    is_candidate = torch.from_numpy(examples.rows >= 0)
    assert int(is_candidate.sum()) < is_candidate.shape[0] * N_ITEMS  # most were not proposed
    rows = torch.from_numpy(np.maximum(examples.rows, 0).astype(np.int64))
    requests = torch.arange(len(rows))[:, None]
    own = {
        "vectors": (proposed.vectors, whole.vectors[requests, rows]),
        "scores": (proposed.scores, whole.scores[requests, rows]),
        "chances": (proposed.chances, whole.chances[requests, rows]),
        "side": (
            proposed.side[..., :N_OWN_SIDE], whole.side[requests, rows][..., :N_OWN_SIDE]
        ),
    }  # fmt: skip
    for name, (found, expected) in own.items():
        torch.testing.assert_close(found[is_candidate], expected[is_candidate], msg=name)
    for name in ("user", "recent", "recent_kinds", "recent_gaps"):
        torch.testing.assert_close(getattr(proposed, name), getattr(whole, name))
    assert set(own) | {"user", "recent", "recent_kinds", "recent_gaps"} == set(ScorerInputs._fields)
    assert whole.side[..., N_OWN_SIDE:].abs().max() == 0
    assert proposed.side.shape[-1] == N_OWN_SIDE + 2 * len(Source)


@given(
    planted=st.lists(
        st.tuples(
            st.integers(0, N_USERS - 1), st.integers(0, 2), st.sampled_from(KINDS[1:]),
            st.integers(1, 10**6),
        ),
        min_size=1, max_size=12,
    )
)  # fmt: skip
@settings(deadline=None, max_examples=10)
def test_a_label_that_is_planted_after_the_moment_changes_labels_alone(
    planted: list[tuple[int, int, str, int]],
) -> None:
    """Likes and dismissals of what is to be predicted, at once and long after: features stay."""
    rows, stages = some_rows(), Stages.of_seed()
    before = log_of(rows)
    held = held_back_events(before, np.random.default_rng(0)).reshape(N_USERS, 3)
    more = []
    for user, which, kind, after_ms in planted:
        event = held[user, which]
        item = before.items[before.rows[event]].item_id
        more.append((f"u{user}", item, kind, int(before.timestamps_ms[event]) + after_ms))
    after = log_of([*rows, *more])
    # A user's later moments do come after what was planted on the first one.
    first = [held[user, 0] for user in range(N_USERS)]
    assert [before.user_ids[user] for user in range(N_USERS)] == after.user_ids
    moved = [after.offsets[user] + event - before.offsets[user] for user, event in enumerate(first)]
    then, now = (
        stages.examples(log, np.asarray(events, np.int64))
        for log, events in ((before, first), (after, moved))
    )
    earliest_ms = min(at_ms for *_, at_ms in more)
    is_before = before.timestamps_ms[first] <= earliest_ms
    for name, values in then.batch().items():
        if name in {"rows", "sources", "ranks"}:
            # Sources see what others did before a moment, and nothing of what comes after it.
            np.testing.assert_array_equal(values[is_before], now.batch()[name][is_before], name)
        else:
            np.testing.assert_array_equal(values, now.batch()[name], name)
    held_after = held_back_events(after, np.random.default_rng(0))
    counts, recounted = (
        label_free_counts(before, label_free(before, held.ravel())),
        label_free_counts(after, label_free(after, held_after)),
    )  # fmt: skip
    np.testing.assert_array_equal(counts, recounted)
    read, reread = (
        stages.read(log, which, examples.pick(np.flatnonzero(is_before)).batch())
        for log, which, examples in ((before, held.ravel(), then), (after, held_after, now))
    )
    for name, tensor in read._asdict().items():
        torch.testing.assert_close(tensor, getattr(reread, name), rtol=0, atol=0, msg=name)


def test_planted_labels_do_arrive_as_labels() -> None:
    """The guard above would pass on a training that ignores them."""
    rows, stages = some_rows(), Stages.of_seed()
    log = log_of(rows)
    held = held_back_events(log, np.random.default_rng(0))
    examples = stages.examples(log, held)
    example, column = (int(n[0]) for n in np.nonzero(examples.labels[..., 0]))
    event = int(held[example])
    user, item = f"u{log.user_of_event()[event]}", log.items[log.rows[event]].item_id
    planted = log_of([*rows, (user, item, "like", int(log.timestamps_ms[event]) + 10)])
    again = stages.examples(planted, held_back_events(planted, np.random.default_rng(0)))
    assert again.rows[example, column] == examples.rows[example, column]
    assert again.labels[example, column].tolist()[:2] == [True, True]


@pytest.mark.parametrize("n_held", [0, 1, 30])
def test_counts_leave_out_the_labels_and_nothing_else(n_held: int) -> None:
    """Against looking at each event: what a user did with a held item from then on."""
    log = log_of(some_rows())
    held = held_back_events(log, np.random.default_rng(0))[:n_held]
    owner = log.user_of_event()
    begins = {(int(owner[event]), int(log.rows[event])): int(event) for event in held}
    expected = np.zeros(N_ITEMS, np.int64)
    for event, (user, row) in enumerate(zip(owner.tolist(), log.rows.tolist(), strict=True)):
        if event < begins.get((user, row), len(log)):
            expected[row] += 1
    assert label_free_counts(log, label_free(log, held)).tolist() == expected.tolist()
    assert expected.sum() <= len(log) - n_held
