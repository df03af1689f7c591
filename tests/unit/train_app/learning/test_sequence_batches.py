"""Targets, windows and batches of histories."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.towers.sequence_batches import (
    Sequences,
    assemble,
    cut_windows,
    plan_epoch,
    training_sequences,
)


def histories(*events: str) -> Interactions:
    """One user per text; each word is `item` or `item:kind`, ten minutes apart."""
    users, items, kinds, times = [], [], [], []
    for user, text in enumerate(events):
        for place, word in enumerate(text.split()):
            item, _, kind = word.partition(":")
            users.append(f"u{user}")
            items.append(item)
            kinds.append(kind or "view")
            times.append(600_000 * place)
    return interactions_from_columns(users, items, kinds, times)


def target_items(train: Interactions, sequences: Sequences) -> list[str]:
    """Item ids of the targets, in order."""
    return [train.items[row].item_id for row in train.rows[sequences.is_target]]


def test_only_first_engagements_of_positive_kinds_are_targets() -> None:
    """A repeat, a dismissal and a held-back event are history, not targets."""
    train = histories("a b a c:dismiss d", "c")
    assert target_items(train, training_sequences(train, ("dismiss",))) == ["a", "b", "d", "c"]
    held_back = np.zeros(len(train), dtype=bool)
    held_back[4] = True
    sequences = training_sequences(train, ("dismiss",), held_back)
    assert target_items(train, sequences) == ["a", "b", "c"]


def test_an_item_dismissed_first_is_no_target_later() -> None:
    """Serving excludes what a user has met, in whatever way."""
    train = histories("a:dismiss b a")
    assert target_items(train, training_sequences(train, ("dismiss",))) == ["b"]


def test_gaps_start_anew_with_each_user() -> None:
    """A user's first event has no gap, whoever came before."""
    sequences = training_sequences(histories("a b", "c d"), ())
    assert sequences.gaps.tolist() == [0, 2, 0, 2]  # ten minutes are bucket 2


@settings(deadline=None, max_examples=50)
@given(
    sizes=st.lists(st.integers(0, 60), min_size=1, max_size=12),
    length=st.integers(1, 20),
    seed=st.integers(0, 99),
    masked=st.floats(0, 1),
)
def test_every_target_is_learned_exactly_once_an_epoch(
    sizes: list[int], length: int, seed: int, masked: float
) -> None:
    """Whatever the lengths of histories, and only with its own past as input."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    n_events = int(offsets[-1])
    sequences = Sequences(
        offsets,
        np.arange(n_events, dtype=np.int32),
        np.full(n_events, 2, np.uint8),
        np.ones(n_events, np.uint8),
        rng.random(n_events) >= masked,
    )
    windows = cut_windows(sequences, length, rng)
    learned = []
    for plan in plan_epoch(windows, 4, length, rng):
        batch = assemble(sequences, windows.pick(plan.index), plan.width, plan.height)
        assert batch.targets.shape == (plan.height, plan.width)
        assert plan.width <= length + 1
        for inputs, targets in zip(batch.items, batch.targets, strict=True):
            for place in np.flatnonzero(targets >= 0):
                learned.append(int(targets[place]))
                past = inputs[:place]
                np.testing.assert_array_equal(past, targets[place] - np.arange(place, 0, -1))
                owner = np.searchsorted(offsets, targets[place], side="right") - 1
                assert (past >= offsets[owner]).all()
    assert sorted(learned) == np.flatnonzero(sequences.is_target).tolist()


def test_an_epoch_follows_from_its_seed() -> None:
    """The same seed gives the same batches, another one others."""
    sequences = training_sequences(
        histories(*(" ".join(f"{u}-{i}" for i in range(40)) for u in range(9))), ()
    )

    def plans(seed: int) -> list[list[int]]:
        rng = np.random.default_rng(seed)
        windows = cut_windows(sequences, 8, rng)
        return [windows.starts[plan.index].tolist() for plan in plan_epoch(windows, 2, 8, rng)]

    assert plans(5) == plans(5)
    assert plans(5) != plans(6)


def test_no_targets_make_no_batches() -> None:
    """A log of dismissals alone trains nothing and does not fail."""
    sequences = training_sequences(histories("a:dismiss b:dismiss"), ("dismiss",))
    rng = np.random.default_rng(0)
    assert plan_epoch(cut_windows(sequences, 8, rng), 2, 8, rng) == []
