"""Retrieval: the shards of the index in parallel, the sources beside it, one list per request.

Knows which shard calls failed and how much of the index answered; not how candidates score.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recsys.candidates import CandidateSet, merge_sources, merge_top_k
from recsys.history_columns import item_ids_of
from recsys.neighbour_candidates import neighbour_candidates, newest_seeds, seed_kinds
from recsys.settings import Settings
from recsys.types import Batch, FloatArray, RowArray, Source, UserState
from serve_app.asks import Ask
from serve_app.residents.bundle_loading import GatewayBundle
from serve_app.residents.live_items import LiveRows
from serve_app.stages.placement import StageClient, StageFailure, try_stage


@dataclass(frozen=True, slots=True)
class IndexAnswer:
    """What the index found for a batch, and how much of it was asked in vain."""

    rows: RowArray  # [B, M]
    scores: FloatArray  # [B, M]
    coverage: float
    failures: tuple[StageFailure, ...]


async def search_index(
    shards: Mapping[str, StageClient],
    bundle: GatewayBundle,
    user_emb: FloatArray,
    n_candidates: int,
    timeout_s: float,
) -> IndexAnswer:
    """Ask every shard at once; one that fails or is late is left out and counted.

    Raises:
        BundleMiss: a shard does not hold the bundle.
    """
    query = {"user_emb": user_emb, "k": np.asarray([n_candidates], np.int32)}
    answers = await asyncio.gather(
        *(
            try_stage(shards[name], name, "search", bundle.bundle_id, query, timeout_s)
            for name in bundle.shards
        )
    )
    found = [answer for answer in answers if not isinstance(answer, StageFailure)]
    failures = tuple(answer for answer in answers if isinstance(answer, StageFailure))
    if not found:
        return no_index(len(user_emb), failures)
    # Every shard's answer is kept: seen items are removed later, and what is left must suffice.
    width = sum(answer["rows"].shape[1] for answer in found)
    rows, scores = merge_top_k(
        [answer["rows"] for answer in found], [answer["scores"] for answer in found], width
    )
    return IndexAnswer(rows, scores, len(found) / len(answers), failures)


def no_index(n_requests: int, failures: tuple[StageFailure, ...]) -> IndexAnswer:
    """The answer of an index that could not be asked."""
    empty = np.empty((n_requests, 0))
    return IndexAnswer(empty.astype(np.int32), empty.astype(np.float32), 0.0, failures)


def merge_candidates(
    bundle: GatewayBundle,
    live: LiveRows,
    index: IndexAnswer,
    features: Batch,
    excluded: Sequence[RowArray],
    settings: Settings,
    n_candidates: int,
) -> CandidateSet:
    """Join the index with the sources beside it, without what must not be shown.

    An item of several sources is the one's that says most of this user: of the index, then of
    what goes together with the newest items, of what rises now, of what is popular, of what is
    new. Without any index the popular source fills the list.
    """
    retrieval = settings.retrieval
    n_requests = len(index.rows)
    n_popular = retrieval.n_popular if index.coverage > 0 else n_candidates
    extras = [
        *_neighbours(bundle, live, features, settings),
        (Source.TRENDING, _for_all(live.trending[: retrieval.n_trending], n_requests)),
        (Source.POPULAR, _for_all(live.popular[:n_popular], n_requests)),
        (Source.FRESH, _for_all(bundle.fresh_rows[: retrieval.n_fresh], n_requests)),
    ]
    return merge_sources(index.rows, index.scores, extras, excluded, live.blocked, n_candidates)


def _neighbours(
    bundle: GatewayBundle, live: LiveRows, features: Batch, settings: Settings
) -> list[tuple[Source, RowArray]]:
    """Item-to-item candidates; none where nobody of the batch has a seed."""
    if live.neighbours is None:
        return []
    is_seed_kind = seed_kinds(bundle.schema.kinds, settings.events.negative_kinds)
    seeds = newest_seeds(features, is_seed_kind, settings.retrieval.neighbour_seeds)
    if not (seeds >= 0).any():
        return []
    found = neighbour_candidates(
        live.neighbours, seeds, features["items"], settings.retrieval.n_neighbours
    )
    return [(Source.NEIGHBOURS, found)]


def excluded_rows(
    bundle: GatewayBundle, features: Batch, users: Sequence[UserState], asks: Sequence[Ask]
) -> list[RowArray]:
    """Per request, the rows of what the user engaged with and of what the caller excludes."""
    length = bundle.schema.history_length
    excluded: list[RowArray] = []
    for known, user, ask in zip(features["items"], users, asks, strict=True):
        if len(user.history) <= length:
            seen = known[known >= 0]
        else:
            seen = bundle.items.rows_of(item_ids_of(user.history))
        if ask.request.exclude_item_ids:
            named = bundle.items.rows_of(ask.request.exclude_item_ids)
            seen = np.concatenate([seen, named])
        excluded.append(seen)
    return excluded


def _for_all(rows: RowArray, n_requests: int) -> RowArray:
    return np.broadcast_to(rows, (n_requests, len(rows)))
