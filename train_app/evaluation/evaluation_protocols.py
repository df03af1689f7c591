"""Which engagements are held out, what may be trained on, and what each is predicted from.

Knows positions in `Interactions`; no model. Legend: M engagements, Q held-out ones (queries).

`time`: every engagement from a cutoff on is predicted from its user's engagements strictly before
it, also those after the cutoff (rolling next item); models know only what is before the cutoff.
`leave-one-out`: the last engagement of every user with an item new to them, ranked among all
items; what came before it is learned from.
`ncf`: the same, ranked among 99 items drawn uniformly from those the user never engaged with
(He et al., Neural Collaborative Filtering, WWW 2017).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataError
from recsys.types import NO_ROW, RowArray
from train_app.examples.interactions import Interactions

Protocol = Literal["time", "leave-one-out", "ncf"]
PROTOCOLS: tuple[Protocol, ...] = ("time", "leave-one-out", "ncf")
N_NEGATIVES = 99
MIN_EVENTS = 3
"""A user with fewer engagements is not evaluated by `leave-one-out` and `ncf`."""

Positions = NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """Engagements to predict and the part of the data that models may learn from."""

    protocol: Protocol
    interactions: Interactions
    is_train: NDArray[np.bool_]  # [M]
    positions: Positions  # [Q] the held-out engagements, ascending
    history_ends: Positions  # [Q] the query's history is its user's engagements before this one
    users: Positions  # [Q]
    train_until_ms: int | None
    """`time` only: models know what happened before this moment."""
    n_repeats: int
    """`time`: engagements not evaluated because the user had engaged with the item before; else
    users whose very last engagement was such a repeat, or of a negative kind."""
    candidates: RowArray | None = None  # [Q, C], the held-out item first, -1 padding
    notes: tuple[str, ...] = ()
    """What a reader of the figures must know of how these were held out."""

    def __len__(self) -> int:
        """Number of queries."""
        return len(self.positions)

    @property
    def targets(self) -> RowArray:
        """The item row of each held-out engagement, [Q]."""
        return self.interactions.rows[self.positions]

    @property
    def train(self) -> Interactions:
        """What models may learn from."""
        return self.interactions.select(self.is_train)

    def sample(self, limit: int, seed: int) -> HeldOut:
        """At most `limit` of the queries, drawn at random, order kept."""
        if len(self) <= limit:
            return self
        drawn = np.sort(np.random.default_rng(seed).choice(len(self), limit, replace=False))
        return self._take(drawn)

    def batches(self, size: int) -> Iterator[HeldOut]:
        """The queries in consecutive parts."""
        for start in range(0, len(self), size):
            yield self._take(np.arange(start, min(len(self), start + size)))

    def seen(self) -> list[RowArray]:
        """Per query, the item rows in its history; an item may appear more than once."""
        starts = self.interactions.offsets[self.users]
        rows = self.interactions.rows
        return [rows[a:b] for a, b in zip(starts, self.history_ends, strict=True)]

    def histories(self, negative_kinds: tuple[str, ...]) -> list[RowArray]:
        """Per query, the item rows in its history without engagements of negative kinds."""
        starts = self.interactions.offsets[self.users]
        rows, wanted = self.interactions.rows, is_positive(self.interactions, negative_kinds)
        ends = self.history_ends
        return [rows[a:b][wanted[a:b]] for a, b in zip(starts, ends, strict=True)]

    def _take(self, index: Positions) -> HeldOut:
        return replace(
            self,
            positions=self.positions[index],
            history_ends=self.history_ends[index],
            users=self.users[index],
            candidates=None if self.candidates is None else self.candidates[index],
        )


def hold_out(
    protocol: Protocol,
    interactions: Interactions,
    *,
    cutoff_ms: int,
    negative_kinds: tuple[str, ...],
    seed: int,
    until_ms: int | None = None,
) -> HeldOut:
    """The held-out engagements of a protocol.

    Args:
        cutoff_ms: `time` only: the moment that splits training from evaluation.
        negative_kinds: engagements of these kinds are never predicted, only read as history.
        seed: of the negatives of `ncf`.
        until_ms: `time` only: engagements from this moment on are not evaluated; None is the end.

    Raises:
        DataError: nothing is left to evaluate.
    """
    if protocol == "time":
        held_out = _after(interactions, cutoff_ms, until_ms, negative_kinds)
    else:
        held_out = _last_of_each_user(interactions, negative_kinds)
    if not len(held_out):
        raise DataError(
            f"the {protocol} protocol has nothing to evaluate in {len(interactions)} engagements "
            f"of {interactions.n_users} users ({held_out.n_repeats} were repeats of seen items); "
            "import more history"
        )
    if protocol == "ncf":
        candidates = _with_negatives(held_out, np.random.default_rng(seed))
        note = f"ranked among {N_NEGATIVES} items drawn uniformly from those the user never met"
        held_out = replace(held_out, protocol="ncf", candidates=candidates, notes=(note,))
    return held_out


def _after(
    interactions: Interactions,
    cutoff_ms: int,
    until_ms: int | None,
    negative_kinds: tuple[str, ...],
) -> HeldOut:
    users = interactions.user_of_event()
    is_train = interactions.timestamps_ms < cutoff_ms
    wanted = ~is_train & is_positive(interactions, negative_kinds)
    if until_ms is not None:
        wanted &= interactions.timestamps_ms < until_ms
    is_first = _is_first_of_item(interactions, users)
    positions = np.flatnonzero(wanted & is_first)
    return HeldOut(
        protocol="time",
        interactions=interactions,
        is_train=is_train,
        positions=positions,
        history_ends=_first_at_same_time(interactions, users)[positions],
        users=users[positions],
        train_until_ms=cutoff_ms,
        n_repeats=int((wanted & ~is_first).sum()),
    )


def _last_of_each_user(interactions: Interactions, negative_kinds: tuple[str, ...]) -> HeldOut:
    """Holds out each user's last engagement with an item new to them, and what came after it."""
    users = interactions.user_of_event()
    position = np.arange(len(interactions))
    may_be = is_positive(interactions, negative_kinds) & _is_first_of_item(interactions, users)
    may_be &= position - interactions.offsets[users] >= MIN_EVENTS - 1
    last = np.full(interactions.n_users, len(interactions))  # beyond all: nothing is held out
    last[users[may_be]] = position[may_be]  # of several writes to a user the last one stays
    positions = last[last < len(interactions)]
    has_later = positions < interactions.offsets[users[positions] + 1] - 1
    return HeldOut(
        protocol="leave-one-out",
        interactions=interactions,
        is_train=position < last[users],
        positions=positions,
        # Of several events at one time the last to arrive is held out: the others precede it.
        history_ends=positions,
        users=users[positions],
        train_until_ms=None,
        n_repeats=int(has_later.sum()),
    )


def is_positive(interactions: Interactions, negative_kinds: tuple[str, ...]) -> NDArray[np.bool_]:
    """Whether each engagement is of a kind that is predicted, [M]."""
    positive = np.asarray([kind not in negative_kinds for kind in interactions.kinds], np.bool_)
    return positive[interactions.kind_ids]


def _is_first_of_item(interactions: Interactions, users: Positions) -> NDArray[np.bool_]:
    """Whether the user had not engaged with the item before, [M]."""
    order = np.lexsort((interactions.rows, users))  # stable: positions ascend within a pair
    pair_changes = np.ones(len(order), np.bool_)
    pair_changes[1:] = (np.diff(users[order]) != 0) | (np.diff(interactions.rows[order]) != 0)
    is_first = np.zeros(len(order), np.bool_)
    is_first[order[pair_changes]] = True
    return is_first


def _first_at_same_time(interactions: Interactions, users: Positions) -> Positions:
    """For each engagement, the first of its user at the same time, [M]."""
    starts_run = np.ones(len(interactions), np.bool_)
    starts_run[1:] = (np.diff(users) != 0) | (np.diff(interactions.timestamps_ms) != 0)
    index = np.where(starts_run, np.arange(len(interactions)), 0)
    return np.maximum.accumulate(index)


def _with_negatives(held_out: HeldOut, rng: np.random.Generator) -> RowArray:
    interactions = held_out.interactions
    candidates = np.full((len(held_out), 1 + N_NEGATIVES), NO_ROW, np.int32)
    candidates[:, 0] = held_out.targets
    for query, user in enumerate(held_out.users):
        start, end = interactions.offsets[user], interactions.offsets[user + 1]
        drawn = _draw_unseen(interactions.n_items, np.unique(interactions.rows[start:end]), rng)
        candidates[query, 1 : 1 + len(drawn)] = drawn
    return candidates


def _draw_unseen(n_items: int, seen: RowArray, rng: np.random.Generator) -> RowArray:
    """Up to `N_NEGATIVES` distinct rows the user never engaged with, uniformly."""
    if n_items - len(seen) <= 4 * N_NEGATIVES:
        unseen = np.setdiff1d(np.arange(n_items, dtype=np.int32), seen, assume_unique=True)
        return rng.permutation(unseen)[:N_NEGATIVES]
    chosen = np.zeros(0, np.int64)
    while len(chosen) < N_NEGATIVES:
        drawn = np.concatenate([chosen, rng.integers(0, n_items, 2 * N_NEGATIVES)])
        fresh = drawn[~np.isin(drawn, seen)]
        _, first = np.unique(fresh, return_index=True)
        chosen = fresh[np.sort(first)]
    return chosen[:N_NEGATIVES].astype(np.int32)
