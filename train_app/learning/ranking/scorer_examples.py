"""Examples for the scorer: what retrieval proposed at a moment, and what the user then did.

Made from events that the towers did not learn from, because a tower is over-sure of what it has
seen. Logged slates take the same shape in `slates`. Knows nothing of the scorer's network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from zlib import crc32

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.candidates import CandidateSet, merge_sources
from recsys.features import FIRST_KIND
from recsys.settings import Settings
from recsys.two_tower import UserEncoder
from recsys.types import NO_ROW, Batch, FloatArray, RowArray, Source
from train_app.examples.interactions import Interactions
from train_app.learning.towers.sequence_batches import first_engagements
from train_app.past.past_sources import past_extras

_MAX_EXAMPLES = 20_000
_ENOUGH_UNKNOWN = 200
_MAX_PER_USER = 3
_ENGAGEMENTS_PER_EXAMPLE = 5
"""A user gives one example for every so many new items met."""
_KEPT_ONE_IN = 4
_CHUNK = 256


@dataclass(frozen=True, slots=True)
class ScorerExamples:
    """E moments with C candidates each; the arrays are those the scorer reads when serving."""

    history: Batch  # "items", "kinds", "ages_s" [E, L]
    user_emb: FloatArray  # [E, D]
    rows: RowArray  # [E, C], -1 padding
    sources: NDArray[np.int8]  # [E, C]
    ranks: RowArray  # [E, C]
    labels: NDArray[np.bool_]  # [E, C, A] the user acted so on the candidate

    def __len__(self) -> int:
        """Number of moments."""
        return len(self.rows)

    def pick(self, index: NDArray[np.int64]) -> ScorerExamples:
        """The examples at `index`."""
        return ScorerExamples(
            {name: values[index] for name, values in self.history.items()},
            self.user_emb[index],
            self.rows[index],
            self.sources[index],
            self.ranks[index],
            self.labels[index],
        )

    def batch(self) -> Batch:
        """What `CandidateScorer` reads."""
        return {
            **self.history,
            "user_emb": self.user_emb,
            "rows": self.rows,
            "sources": self.sources,
            "ranks": self.ranks,
        }


def held_back_events(
    train: Interactions, rng: np.random.Generator, since_ms: int | None = None
) -> NDArray[np.int64]:
    """Indices [E] of the events that are kept for the scorer: the newest new items of each user.

    At most three a user, and fewer where the user met few items or there are many users.

    Args:
        since_ms: towers that a training starts from know what was before; where there are enough
            events from then on, only those are kept.
    """
    new = np.flatnonzero(first_engagements(train))
    user = train.user_of_event()[new]
    n_new = np.bincount(user, minlength=train.n_users)
    ends = np.cumsum(n_new)
    from_end = ends[user] - np.arange(len(new))  # 1 is the user's newest
    quota = np.minimum(n_new // _ENGAGEMENTS_PER_EXAMPLE, _MAX_PER_USER)
    for most in range(_MAX_PER_USER, 1, -1):
        if int(quota.sum()) <= _MAX_EXAMPLES:
            break
        quota = np.minimum(quota, most - 1)
    held = new[from_end <= quota[user]]
    if len(held) > _MAX_EXAMPLES:
        held = np.sort(rng.choice(held, _MAX_EXAMPLES, replace=False))
    if since_ms is not None:
        unknown = held[train.timestamps_ms[held] >= since_ms]
        held = unknown if len(unknown) >= _ENOUGH_UNKNOWN else held
    return held


def kept_aside(train: Interactions, events: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[E] Which of the events are to validate on: about a quarter, each for as long as it is known.

    A training that starts from an earlier one meets the same moments again; what that one learned
    from must not judge this one.
    """
    owner = np.searchsorted(train.offsets, events, side="right") - 1
    times_ms, rows = train.timestamps_ms[events].tolist(), train.rows[events].tolist()
    names = (
        f"{train.user_ids[user]}\0{train.items[row].item_id}\0{time_ms}"
        for user, row, time_ms in zip(owner.tolist(), rows, times_ms, strict=True)
    )
    hashes = np.fromiter((crc32(name.encode()) for name in names), np.uint32, len(events))
    return np.asarray(hashes % _KEPT_ONE_IN == 0)


def collect_examples(
    train: Interactions,
    events: NDArray[np.int64],
    encoder: UserEncoder,
    vectors: FloatArray,
    settings: Settings,
) -> ScorerExamples:
    """For each event, what retrieval proposes just before it, with the user's acts as labels.

    The index is searched exactly, and the other sources are as of the event; a true item that
    none of them proposes is no candidate, as when serving.
    """
    history = histories_before(train, events, encoder.config.history_length)
    extras = past_extras(train, history, train.timestamps_ms[events], settings)
    n_candidates = settings.retrieval.n_candidates
    parts = []
    for start in range(0, max(len(events), 1), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        part = {name: values[chunk] for name, values in history.items()}
        beside = [(source, rows[chunk]) for source, rows in extras]
        parts.append(
            _collect_chunk(train, events[chunk], part, encoder, vectors, beside, n_candidates)
        )
    return ScorerExamples(
        history,
        np.concatenate([part.user_emb for part in parts]),
        np.concatenate([part.rows for part in parts]),
        np.concatenate([part.sources for part in parts]),
        np.concatenate([part.ranks for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def histories_before(train: Interactions, events: NDArray[np.int64], history_length: int) -> Batch:
    """The history arrays of the user of each event, just before it and as of its time."""
    owner = np.searchsorted(train.offsets, events, side="right") - 1
    return histories_at(train, owner, events, train.timestamps_ms[events], history_length)


def histories_at(
    train: Interactions,
    users: NDArray[np.int64],
    ends: NDArray[np.int64],
    moments_ms: NDArray[np.int64],
    history_length: int,
) -> Batch:
    """The history arrays of users [E] up to the events `ends` [E], as of moments [E]."""
    places = ends[:, None] + np.arange(-history_length, 0)
    is_event = places >= train.offsets[users][:, None]
    places = np.maximum(places, 0)
    if len(train) == 0:
        places = places[:0]
    kinds = train.kind_ids[places].astype(np.int64) + FIRST_KIND
    ages_s = (moments_ms[:, None] - train.timestamps_ms[places]) / 1000.0
    return {
        "items": np.where(is_event, train.rows[places], NO_ROW).astype(np.int32),
        "kinds": np.where(is_event, kinds, 0).astype(np.uint8),
        "ages_s": np.where(is_event, ages_s, 0.0),
    }


def _collect_chunk(
    train: Interactions,
    events: NDArray[np.int64],
    history: Batch,
    encoder: UserEncoder,
    vectors: FloatArray,
    extras: Sequence[tuple[Source, RowArray]],
    n_candidates: int,
) -> ScorerExamples:
    user_emb = encoder.encode(history)
    owner = np.searchsorted(train.offsets, events, side="right") - 1
    seen = [
        train.rows[begin:end]
        for begin, end in zip(train.offsets[owner].tolist(), events.tolist(), strict=True)
    ]
    found = _retrieve(user_emb, vectors, seen, extras, n_candidates)
    return ScorerExamples(
        history,
        user_emb,
        found.rows,
        found.sources,
        found.ranks,
        _labels(train, events, found.rows),
    )


def _retrieve(
    user_emb: FloatArray,
    vectors: FloatArray,
    seen: Sequence[RowArray],
    extras: Sequence[tuple[Source, RowArray]],
    n_candidates: int,
) -> CandidateSet:
    scores = user_emb @ vectors.T
    for row, items in enumerate(seen):
        scores[row, items] = -np.inf
    n_found = min(n_candidates, len(vectors))
    best, rows = torch.topk(torch.from_numpy(scores), n_found, dim=1)
    index_rows = np.where(torch.isfinite(best).numpy(), rows.numpy(), NO_ROW).astype(np.int32)
    return merge_sources(index_rows, best.numpy(), extras, seen, None, n_candidates)


def _labels(train: Interactions, events: NDArray[np.int64], rows: RowArray) -> NDArray[np.bool_]:
    """[E, C, A] The user's acts on each event's item, from that event on."""
    ends = train.offsets[np.searchsorted(train.offsets, events, side="right")]
    labels = np.zeros((*rows.shape, len(train.kinds)), dtype=bool)
    for example, (event, end) in enumerate(zip(events.tolist(), ends.tolist(), strict=True)):
        item = train.rows[event]
        column = np.flatnonzero(rows[example] == item)
        if len(column):
            acts = train.kind_ids[event:end][train.rows[event:end] == item]
            labels[example, column[0], acts] = True
    return labels
