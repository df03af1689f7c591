"""What is held out, what may be learned from, and what each query may read."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from train_app.evaluation.evaluation_protocols import (
    N_NEGATIVES,
    PROTOCOLS,
    HeldOut,
    Protocol,
    hold_out,
)
from train_app.examples.interactions import Interactions, interactions_from_columns


def random_interactions(seed: int, n: int = 60, n_items: int = 30) -> Interactions:
    """Engagements of few users at few moments, so that repeats and equal times happen."""
    rng = np.random.default_rng(seed)
    return interactions_from_columns(
        [f"u{user}" for user in rng.integers(0, 6, n)],
        [f"i{item}" for item in rng.integers(0, n_items, n)],
        [("click", "dismiss")[kind] for kind in rng.integers(0, 2, n)],
        rng.integers(0, 20, n),
    )


def held_out_of(interactions: Interactions, protocol: Protocol, cutoff_ms: int = 12) -> HeldOut:
    """A protocol with `dismiss` as the negative kind."""
    return hold_out(
        protocol, interactions, cutoff_ms=cutoff_ms, negative_kinds=("dismiss",), seed=0
    )


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), protocol=st.sampled_from(PROTOCOLS))
def test_a_query_never_reads_or_trains_on_what_it_predicts(seed: int, protocol: Protocol) -> None:
    """Targets are new to their user, positive, outside the training part and after the history."""
    interactions = random_interactions(seed)
    held_out = held_out_of(interactions, protocol)
    assert not held_out.is_train[held_out.positions].any()
    for target, user, position, end, seen in zip(
        held_out.targets,
        held_out.users,
        held_out.positions,
        held_out.history_ends,
        held_out.seen(),
        strict=True,
    ):
        assert interactions.offsets[user] <= end <= position < interactions.offsets[user + 1]
        assert target not in seen
        assert interactions.kinds[interactions.kind_ids[position]] != "dismiss"
        if protocol == "time":
            history_times = interactions.timestamps_ms[interactions.offsets[user] : end]
            assert (history_times < interactions.timestamps_ms[position]).all()


def test_the_time_protocol_trains_before_the_cutoff_only() -> None:
    """Every engagement before the cutoff is learned from and none after it."""
    interactions = random_interactions(1)
    held_out = held_out_of(interactions, "time", cutoff_ms=12)
    assert (held_out.train.timestamps_ms < 12).all()
    assert len(held_out.train) == (interactions.timestamps_ms < 12).sum()
    assert held_out.train.items == interactions.items


def test_leave_one_out_takes_the_last_of_each_user_in_order_of_arrival() -> None:
    """Equal times keep their order of arrival; users with fewer than three are not evaluated."""
    interactions = interactions_from_columns(
        ["u", "u", "u", "v", "v"], ["a", "b", "c", "a", "b"], ["click"] * 5, [5, 5, 5, 1, 2]
    )
    held_out = held_out_of(interactions, "leave-one-out")
    assert [interactions.items[row].item_id for row in held_out.targets] == ["c"]
    assert [rows.tolist() for rows in held_out.seen()] == [[0, 1]]
    assert len(held_out.train) == 4


def test_leave_one_out_steps_back_over_repeats_and_negative_kinds() -> None:
    """The last new and wanted item is predicted, from what came before it alone."""
    interactions = interactions_from_columns(
        ["u"] * 6,
        ["a", "b", "c", "c", "d", "a"],
        ["click", "click", "click", "buy", "dismiss", "click"],
        range(6),
    )
    held_out = held_out_of(interactions, "leave-one-out")
    assert [interactions.items[row].item_id for row in held_out.targets] == ["c"]
    assert held_out.train.rows.tolist() == [0, 1]
    assert held_out.n_repeats == 1


def test_negatives_are_distinct_unseen_and_seeded() -> None:
    """The candidates of a query are its target and 99 items its user never engaged with."""
    rng = np.random.default_rng(0)
    interactions = interactions_from_columns(
        np.repeat([f"u{n}" for n in range(20)], 10).tolist(),
        [f"i{item}" for item in np.concatenate([rng.permutation(900)[:10] for _ in range(20)])],
        ["click"] * 200,
        list(range(200)),
    )
    held_out = held_out_of(interactions, "ncf")
    assert held_out.candidates is not None
    assert (held_out.candidates[:, 0] == held_out.targets).all()
    for user, drawn in zip(held_out.users, held_out.candidates, strict=True):
        start, end = interactions.offsets[user], interactions.offsets[user + 1]
        negatives = drawn[1:][drawn[1:] >= 0]
        assert len(set(negatives.tolist())) == len(negatives) == N_NEGATIVES
        assert not set(negatives.tolist()) & set(interactions.rows[start:end].tolist())
    again = held_out_of(interactions, "ncf").candidates
    assert again is not None
    assert (again == held_out.candidates).all()


def test_a_small_catalogue_has_fewer_negatives() -> None:
    """What cannot be drawn is padding."""
    interactions = interactions_from_columns(
        ["u"] * 3 + ["v"] * 3, ["a", "b", "c", "d", "e", "f"], ["click"] * 6, range(6)
    )
    held_out = held_out_of(interactions, "ncf")
    assert held_out.candidates is not None
    assert ((held_out.candidates >= 0).sum(axis=1) == 4).all()


def test_a_sample_keeps_queries_whole() -> None:
    """A sampled query has the history and target it had."""
    whole = held_out_of(random_interactions(3, n=200, n_items=100), "time")
    part = whole.sample(5, seed=1)
    assert len(part) == 5
    index = np.searchsorted(whole.positions, part.positions)
    assert (whole.history_ends[index] == part.history_ends).all()
    assert (whole.targets[index] == part.targets).all()
    assert whole.sample(10_000, seed=1) is whole


def test_nothing_held_out_is_an_error() -> None:
    """The message says what to do."""
    with pytest.raises(DataError, match="import more history"):
        held_out_of(random_interactions(1), "time", cutoff_ms=1_000)
