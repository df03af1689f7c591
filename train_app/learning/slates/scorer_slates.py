"""Logged slates as examples for the scorer: what was shown, at which position, and what was done.

Labels come from the engagements of the training alone, so that what was held out labels nothing.
Knows nothing of the lake or of the scorer's network.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.two_tower import UserEncoder
from recsys.types import NO_ROW
from train_app.examples.interactions import Interactions
from train_app.following.evidence.user_trail import SIGHT_KINDS
from train_app.learning.ranking.scorer_examples import ScorerExamples, histories_at
from train_app.learning.slates.shown_slates import ShownSlates

MAX_SLATES = 20_000
MIN_UNPROMPTED = 100
"""With fewer moments without a slate, those with one are learned from and validated on too."""


@dataclass(frozen=True, slots=True)
class ShownExamples:
    """E slates whose candidates are what was shown, with the positions [E, C], -1 for none."""

    examples: ScorerExamples
    positions: NDArray[np.int32]

    def __len__(self) -> int:
        """Number of slates."""
        return len(self.examples)

    def pick(self, index: NDArray[np.int64]) -> ShownExamples:
        """The slates at `index`."""
        return ShownExamples(self.examples.pick(index), self.positions[index])


def slate_examples(
    train: Interactions,
    slates: ShownSlates,
    taught: NDArray[np.int64],
    encoder: UserEncoder,
    window_ms: int,
    rng: np.random.Generator,
) -> ShownExamples:
    """The slates with an engagement that the scorer may learn from, labelled, `MAX_SLATES` at most.

    A slate without an engagement says nothing of an order, so it is left out. That an item was
    seen tells its position and not its worth, so it labels nothing where there are other kinds.

    Args:
        taught: [E] events that the scorer learns from: the towers did not, and no part kept aside
            holds them. A slate that led to any other of its items is left out.
        window_ms: an engagement belongs to the newest slate that showed the item within this time.
    """
    index, ends, labels = _labelled(train, slates, taught, window_ms)
    if len(index) > MAX_SLATES:
        index = np.sort(rng.choice(index, MAX_SLATES, replace=False))
    length = encoder.config.history_length
    users, moments_ms = slates.users[index], slates.moments_ms[index]
    history = histories_at(train, users, ends[index], moments_ms, length)
    rows = slates.rows[index]
    examples = ScorerExamples(
        history,
        encoder.encode(history),
        rows,
        slates.sources[index],
        slates.ranks[index],
        labels[index],
    )
    return ShownExamples(examples, np.where(rows >= 0, slates.positions[index], NO_ROW))


def _labelled(
    train: Interactions, slates: ShownSlates, taught: NDArray[np.int64], window_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Indices of the slates to learn from; and of all the ends of their histories, and labels."""
    times_ms = train.timestamps_ms
    met = train.user_of_event() * train.n_items + train.rows  # a user's item
    may_teach = np.isin(met, met[taught])
    is_sight = np.array([kind in SIGHT_KINDS for kind in train.kinds], np.bool_)
    is_spent = is_sight[train.kind_ids] & (not is_sight.all())  # counted, or not to be
    labels = np.zeros((*slates.rows.shape, len(train.kinds)), np.bool_)
    ends = np.zeros(len(slates), np.int64)
    kept: list[int] = []
    for slate in np.argsort(-slates.moments_ms, kind="stable").tolist():
        begin, end = train.offsets[slates.users[slate] : slates.users[slate] + 2].tolist()
        moment_ms = slates.moments_ms[slate]
        window = np.searchsorted(times_ms[begin:end], (moment_ms, moment_ms + window_ms))
        first, last = begin + window
        ends[slate] = first
        events = np.arange(first, last)[~is_spent[first:last]]
        happened, places = np.nonzero(train.rows[events][:, None] == slates.rows[slate])
        events = events[happened]
        is_spent[events] = True
        labels[slate, places, train.kind_ids[events]] = True
        if len(events) and may_teach[events].all():
            kept.append(slate)
    return np.array(sorted(kept), np.int64), ends, labels


def without_prompts(train: Interactions, events: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[E] The events no slate prompted; all of them where those are too few to validate on.

    Where an item stood decides with its worth whether it was engaged with, so reactions to slates
    flatter what stood above.
    """
    alone = ~train.is_prompted[events]
    return alone if int(alone.sum()) >= MIN_UNPROMPTED else np.ones(len(events), np.bool_)
