"""Histories as training batches: which events are targets, windows of a history, buckets by length.

Pure arrays and a passed-in rng: the batches of an epoch follow from (seed, epoch) alone, so a
resumed run meets the same ones. Knows nothing of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.features import FIRST_KIND
from recsys.tower_networks import gap_buckets
from train_app.examples.interactions import Interactions

_MIN_STEPS_PER_EPOCH = 100
"""Short histories are packed more to a step, but an epoch keeps about so many steps."""
_MIN_TOKENS_PER_HISTORY = 8
_WIDTH_STEP = 16


@dataclass(frozen=True, slots=True)
class Sequences:
    """Every user's events in time order, with what may be predicted marked.

    User `u` owns `offsets[u]:offsets[u + 1]`.
    """

    offsets: NDArray[np.int64]  # [U + 1]
    rows: NDArray[np.int32]  # [M]
    kinds: NDArray[np.uint8]  # [M] kind index of the feature schema
    gaps: NDArray[np.uint8]  # [M] bucket of the time since the user's event before
    is_target: NDArray[np.bool_]  # [M]


@dataclass(frozen=True, slots=True)
class Windows:
    """Slices of histories: events `start:end`, of which the last is only a target."""

    starts: NDArray[np.int64]  # [W]
    ends: NDArray[np.int64]  # [W]
    is_first: NDArray[np.bool_]  # [W] the window begins at the user's first event

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.starts)

    def pick(self, index: NDArray[np.int64] | NDArray[np.bool_]) -> Windows:
        """The windows at `index`."""
        return Windows(self.starts[index], self.ends[index], self.is_first[index])


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """Which windows make a batch, and the shape they are padded to."""

    index: NDArray[np.int64]
    width: int
    """Tokens of a window."""
    height: int
    """Windows, padding included."""


@dataclass(frozen=True, slots=True)
class SequenceBatch:
    """B windows of T tokens, left aligned: token 0 is the start token, token t is event t - 1."""

    items: NDArray[np.int32]  # [B, T - 1] -1 padding
    kinds: NDArray[np.uint8]  # [B, T - 1]
    gaps: NDArray[np.uint8]  # [B, T - 1]
    targets: NDArray[np.int32]  # [B, T] the item that follows token t, -1 where none is learned

    @property
    def n_targets(self) -> int:
        """Predictions to learn from."""
        return int((self.targets >= 0).sum())


def training_sequences(
    train: Interactions, negative_kinds: Sequence[str], held_back: NDArray[np.bool_] | None = None
) -> Sequences:
    """Mark the targets: a user's first engagement with an item, unless of a negative kind.

    Later engagements with the item are history, not targets: serving never shows a seen item.

    Args:
        held_back: [M] events that are no targets, because the scorer learns from them.
    """
    is_target = first_engagements(train) & ~np.isin(
        train.kind_ids, [i for i, kind in enumerate(train.kinds) if kind in set(negative_kinds)]
    )
    if held_back is not None:
        is_target &= ~held_back
    gaps_s = np.full(len(train), np.nan)
    gaps_s[1:] = np.diff(train.timestamps_ms) / 1000.0
    has_events = np.diff(train.offsets) > 0
    gaps_s[train.offsets[:-1][has_events]] = np.nan
    kinds = train.kind_ids.astype(np.int64) + FIRST_KIND
    return Sequences(
        train.offsets, train.rows, kinds.astype(np.uint8), gap_buckets(gaps_s), is_target
    )


def first_engagements(train: Interactions) -> NDArray[np.bool_]:
    """[M] True where a user meets an item for the first time."""
    pairs = train.user_of_event() * max(train.n_items, 1) + train.rows
    first = np.zeros(len(train), dtype=bool)
    first[np.unique(pairs, return_index=True)[1]] = True
    return first


def cut_windows(sequences: Sequences, history_length: int, rng: np.random.Generator) -> Windows:
    """Cut histories to windows of at most `history_length` inputs; every target is in exactly one.

    A long history is cut at random places, so that over epochs a target is met at every depth.
    """
    lasts = _last_targets(sequences)
    used = np.flatnonzero(lasts > 0)
    sizes = lasts[used]  # events from the first to the last target
    begins = sequences.offsets[:-1][used]
    shift = rng.integers(1, history_length + 1, len(used))
    heads = np.where(sizes > history_length + 1, shift, sizes - 1)  # inputs of the first window
    n_more = -(-(sizes - 1 - heads) // history_length)
    user = np.repeat(np.arange(len(used)), n_more + 1)
    order = np.arange(len(user)) - np.repeat(np.cumsum(n_more + 1) - (n_more + 1), n_more + 1)
    is_first = order == 0
    tail = heads[user] + order * history_length
    starts = np.where(is_first, 0, tail - history_length)
    ends = np.minimum(np.where(is_first, heads[user], tail) + 1, sizes[user])
    windows = Windows(begins[user] + starts, begins[user] + ends, is_first)
    return windows.pick(_has_target(sequences, windows))


def plan_epoch(
    windows: Windows, batch_size: int, history_length: int, rng: np.random.Generator
) -> list[BatchPlan]:
    """The batches of an epoch, each of windows of similar length, in random order.

    Widths and heights come from short lists, because every new shape of a matrix product costs a
    processor's library more to prepare than to compute.

    Args:
        batch_size: full-length windows per batch; shorter ones fill the same number of tokens.
    """
    if len(windows) == 0:
        return []
    lengths = windows.ends - windows.starts
    longest = history_length + 1
    widths = np.minimum(-(-lengths // _WIDTH_STEP) * _WIDTH_STEP, longest)
    per_step = int(lengths.sum()) // _MIN_STEPS_PER_EPOCH
    budget = min(batch_size * longest, max(batch_size * _MIN_TOKENS_PER_HISTORY, per_step))
    plans = []
    for width in np.unique(widths).tolist():
        members = rng.permutation(np.flatnonzero(widths == width))
        height = max(budget // width, 1)
        for start in range(0, len(members), height):
            index = members[start : start + height]
            rounded = min(1 << (len(index) - 1).bit_length(), height)
            plans.append(BatchPlan(index, width, rounded))
    return [plans[place] for place in rng.permutation(len(plans))]


def assemble(sequences: Sequences, windows: Windows, width: int, height: int) -> SequenceBatch:
    """The arrays of a batch of windows, padded to `width` tokens and `height` windows."""
    lengths = np.zeros(height, dtype=np.int64)
    lengths[: len(windows)] = windows.ends - windows.starts
    starts = np.zeros(height, dtype=np.int64)
    starts[: len(windows)] = windows.starts
    is_first = np.zeros(height, dtype=bool)
    is_first[: len(windows)] = windows.is_first
    places = starts[:, None] + np.arange(width)
    present = np.arange(width) < lengths[:, None]  # of targets
    places = np.where(present, places, 0)
    is_target = present & sequences.is_target[places]
    is_target[:, 0] &= is_first
    inputs, read = places[:, :-1], present[:, 1:]
    gaps = np.where(read, sequences.gaps[inputs], 0)
    gaps[:, :1] = 0  # a truncated history does not know the gap before its oldest event
    return SequenceBatch(
        items=np.where(read, sequences.rows[inputs], -1).astype(np.int32),
        kinds=np.where(read, sequences.kinds[inputs], 0).astype(np.uint8),
        gaps=gaps.astype(np.uint8),
        targets=np.where(is_target, sequences.rows[places], -1).astype(np.int32),
    )


def _last_targets(sequences: Sequences) -> NDArray[np.int64]:
    """Events of each user up to and with the last target, [U]; 0 where there is none."""
    sizes = np.diff(sequences.offsets)
    user = np.repeat(np.arange(len(sizes)), sizes)
    places = np.arange(len(sequences.rows)) - sequences.offsets[:-1][user] + 1
    lasts = np.zeros(len(sizes), dtype=np.int64)
    np.maximum.at(lasts, user[sequences.is_target], places[sequences.is_target])
    return lasts


def _has_target(sequences: Sequences, windows: Windows) -> NDArray[np.bool_]:
    """[W] True where a window has something to learn; its first event counts only at the start."""
    before = np.concatenate([[0], np.cumsum(sequences.is_target)])
    first = np.where(windows.is_first, windows.starts, windows.starts + 1)
    has: NDArray[np.bool_] = before[windows.ends] > before[first]
    return has
