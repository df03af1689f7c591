"""Rankers: what turns held-out queries into ranked lists, so that methods can be compared.

A ranker answers one list per query and name, item rows of `Interactions`, best first, -1 padded,
items of the query's history left out. Bundles are ranked with by the very stages that serve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import ItemTable
from recsys.candidates import CandidateSet, best_columns, merge_top_k
from recsys.features import OTHER_KIND, PADDING_KIND, FeatureSchema
from recsys.settings import Settings
from recsys.stages import (
    ORDERING,
    SCORER,
    VECTORS_FILE,
    BundleFacts,
    Stage,
    load_stage,
    shard_stage_name,
)
from recsys.types import NO_ROW, Batch, FloatArray, RowArray
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.page_sources import PageSources, index_alone, scorer_inputs
from train_app.examples.interactions import Interactions

LIST_LENGTH = 200
"""Ranks beyond this count as not found."""
SLATE_LENGTH = 10
RETRIEVAL_EXACT = "retrieval, exact"
RETRIEVAL_INDEX = "retrieval, index"
PAGE = "page"
FINAL_PAGE = "final page"
POPULARITY = "popularity"

Ranker: TypeAlias = Callable[[HeldOut], dict[str, RowArray]]


def scores_ranker(name: str, scores: FloatArray) -> Ranker:
    """A ranker by one score per item, the same for everybody, [N]."""

    def rank(queries: HeldOut) -> dict[str, RowArray]:
        everybody = np.broadcast_to(scores, (len(queries), len(scores)))
        return {name: top_lists(everybody, queries)}

    return rank


def history_ranker(
    name: str,
    scores_of: Callable[[Sequence[RowArray]], FloatArray],
    negative_kinds: tuple[str, ...],
) -> Ranker:
    """A ranker by scores made of the query's history, engagements of negative kinds left out.

    Args:
        scores_of: histories of item rows to a score of every item, [B, N].
    """

    def rank(queries: HeldOut) -> dict[str, RowArray]:
        return {name: top_lists(scores_of(queries.histories(negative_kinds)), queries)}

    return rank


@dataclass(frozen=True)
class BundleParts:
    """What a bundle is ranked with."""

    scorer: Stage
    shards: Sequence[Stage]
    vectors: FloatArray  # [N, D]
    item_ids: Sequence[str]  # [N]
    schema: FeatureSchema
    ordering: Stage | None = None
    """Makes the final page, without exploring; `None` leaves it out."""
    beside: PageSources | None = None
    """The sources beside the index; `None` makes pages of the index alone."""

    @classmethod
    def load(cls, bundle_dir: Path, facts: BundleFacts, settings: Settings) -> BundleParts:
        """The stages of a bundle directory, as they serve."""
        from safetensors.numpy import load_file

        items = ItemTable.read(bundle_dir)
        schema = FeatureSchema.from_json(dict(facts.feature_schema))
        return cls(
            scorer=load_stage(SCORER, bundle_dir, facts, settings),
            shards=[
                load_stage(shard_stage_name(number), bundle_dir, facts, settings)
                for number in range(facts.n_shards)
            ],
            vectors=load_file(bundle_dir / VECTORS_FILE)["vectors"],
            item_ids=items.item_ids,
            schema=schema,
            ordering=load_stage(ORDERING, bundle_dir, facts, _greedy(settings)),
            beside=PageSources.of_bundle(items, schema.kinds, settings),
        )


class BundleRanker:
    """Ranks with a bundle: exact retrieval, retrieval by the index, and the scored page.

    Args:
        interactions: whose items and kinds the queries are in; the bundle may know others.
        n_candidates: how many retrieved items the page scores.
        prefix: stands before the names of the lists.
    """

    def __init__(
        self, parts: BundleParts, interactions: Interactions, n_candidates: int, prefix: str = ""
    ) -> None:
        self._parts = parts
        self._schema = parts.schema
        self._vectors = parts.vectors
        self._n_candidates = n_candidates
        self._prefix = prefix
        own_ids = [item.item_id for item in interactions.items]
        self._bundle_row = _row_map(own_ids, parts.item_ids)
        self._own_row = _row_map(parts.item_ids, own_ids)
        kind_index = parts.schema.kind_index()
        self._kind = np.asarray(
            [kind_index.get(kind, OTHER_KIND) for kind in interactions.kinds], np.uint8
        )

    def __call__(self, queries: HeldOut) -> dict[str, RowArray]:
        """The lists of every stage of the bundle."""
        features = self.features(queries)
        features["user_emb"] = self._parts.scorer("encode", features)["user_emb"]
        if queries.candidates is not None:
            lists = self._rank_candidates(features, self._bundle_row[queries.candidates])
        else:
            lists = self._rank_all(queries, features)
        return {f"{self._prefix}{name}": self._own_row[rows] for name, rows in lists.items()}

    def features(self, queries: HeldOut) -> Batch:
        """What the bundle's models read of each query's history: items, kinds and ages, [B, L]."""
        history = queries.interactions
        length = self._schema.history_length
        starts = history.offsets[queries.users]
        position = queries.history_ends[:, None] - np.arange(length, 0, -1)  # [B, L]
        inside = position >= starts[:, None]
        position = np.where(inside, position, 0)
        items = np.where(inside, self._bundle_row[history.rows[position]], NO_ROW)
        kinds = np.where(items >= 0, self._kind[history.kind_ids[position]], PADDING_KIND)
        now_ms = history.timestamps_ms[queries.positions][:, None]
        ages_s = np.maximum(now_ms - history.timestamps_ms[position], 0) / 1000.0
        # Items the bundle does not know are skipped, so padding moves to the front.
        order = np.argsort(items >= 0, axis=1, kind="stable")
        return {
            "items": np.take_along_axis(items, order, 1).astype(np.int32),
            "kinds": np.take_along_axis(kinds, order, 1).astype(np.uint8),
            "ages_s": np.take_along_axis(np.where(items >= 0, ages_s, 0.0), order, 1),
        }

    def _rank_candidates(self, features: Batch, rows: RowArray) -> dict[str, RowArray]:
        vectors = self._vectors[np.maximum(rows, 0)]  # [B, C, D]
        scores = np.einsum("bd,bcd->bc", features["user_emb"], vectors)
        order = best_columns(np.where(rows >= 0, scores, -np.inf), rows.shape[1])
        retrieved = np.take_along_axis(rows, order, 1)
        pages = self._pages(features, index_alone(retrieved), has_slate=False)
        return {RETRIEVAL_EXACT: retrieved, **pages}

    def _rank_all(self, queries: HeldOut, features: Batch) -> dict[str, RowArray]:
        seen = [self._bundle_row[rows] for rows in queries.seen()]
        scores: FloatArray = features["user_emb"] @ self._vectors.T
        exact = _top_unseen(scores, [rows[rows >= 0] for rows in seen])
        found = self._search(features["user_emb"], seen)
        candidates = index_alone(found[:, : self._n_candidates])
        if self._parts.beside is not None:
            candidates = self._parts.beside.merged(
                queries, features, candidates.rows, seen, self._bundle_row
            )
        return {
            RETRIEVAL_EXACT: exact,
            RETRIEVAL_INDEX: found[:, :LIST_LENGTH],
            **self._pages(features, candidates, has_slate=True),
        }

    def _search(self, user_emb: FloatArray, seen: Sequence[RowArray]) -> RowArray:
        """The best unseen rows of all shards."""
        wanted = max(self._n_candidates, LIST_LENGTH)
        n_seen = max((len(rows) for rows in seen), default=0)
        k = min(wanted + n_seen, len(self._vectors))
        query: Batch = {"user_emb": user_emb, "k": np.asarray([k], np.int32)}
        answers = [shard("search", query) for shard in self._parts.shards]
        rows, _ = merge_top_k([a["rows"] for a in answers], [a["scores"] for a in answers], k)
        is_seen = _is_member(rows, seen, len(self._vectors))
        order = np.argsort(is_seen | (rows < 0), axis=1, kind="stable")[:, :wanted]
        kept = np.where(is_seen, NO_ROW, rows)
        return np.take_along_axis(kept, order, 1)

    def _pages(
        self, features: Batch, candidates: CandidateSet, *, has_slate: bool
    ) -> dict[str, RowArray]:
        """The candidates in the order of their utility, and the slate made of them."""
        retrieved = candidates.rows
        scored = self._parts.scorer("score", scorer_inputs(features, candidates))
        order = best_columns(scored["utility"], retrieved.shape[1])
        usable = np.take_along_axis(np.isfinite(scored["utility"]), order, 1)
        page = np.where(usable, np.take_along_axis(retrieved, order, 1), NO_ROW)
        pages = {PAGE: page[:, :LIST_LENGTH] if has_slate else page}
        if has_slate and self._parts.ordering is not None:
            pages[FINAL_PAGE] = self._slate(self._parts.ordering, retrieved, scored["utility"])
        return pages

    @staticmethod
    def _slate(ordering: Stage, rows: RowArray, utility: FloatArray) -> RowArray:
        """What ordering makes of the scored candidates, [B, SLATE_LENGTH]."""
        n_requests = len(rows)
        picked = ordering(
            "order",
            {
                "rows": rows,
                "utility": utility,
                "k": np.full(n_requests, SLATE_LENGTH, np.int32),
                "seeds": np.zeros(n_requests, np.uint64),
            },
        )["picked"]
        if not rows.shape[1]:
            return np.full((n_requests, SLATE_LENGTH), NO_ROW, np.int32)
        return np.where(picked >= 0, np.take_along_axis(rows, np.maximum(picked, 0), 1), NO_ROW)


def _greedy(settings: Settings) -> Settings:
    """Exploration is chance: a page is judged by what ordering takes for best."""
    ordering = settings.ordering.model_copy(update={"exploration": 0.0})
    return settings.model_copy(update={"ordering": ordering})


def batch_size(n_items: int, n_cells: int = 8_000_000) -> int:
    """Queries ranked at once, so that a score for every item stays within `n_cells`."""
    return max(1, min(256, n_cells // max(1, n_items)))


def top_lists(scores: FloatArray, queries: HeldOut) -> RowArray:
    """The best unseen items, or the best candidates where the protocol names them."""
    if queries.candidates is None:
        return _top_unseen(scores, queries.seen())
    rows = queries.candidates
    own = np.take_along_axis(scores, np.maximum(rows, 0), 1)
    # The held-out item stands first; breaking ties by row keeps it from winning them for that.
    by_row = np.argsort(rows, axis=1, kind="stable")
    own, rows = np.take_along_axis(own, by_row, 1), np.take_along_axis(rows, by_row, 1)
    order = best_columns(np.where(rows >= 0, own, -np.inf), rows.shape[1])
    return np.take_along_axis(rows, order, 1)


def _top_unseen(scores: FloatArray, seen: Sequence[RowArray]) -> RowArray:
    masked = np.array(scores, np.float32)
    for query, rows in enumerate(seen):
        masked[query, rows] = -np.inf
    kept = min(LIST_LENGTH, masked.shape[1])
    order = _best_of_many(masked, kept)
    best = np.take_along_axis(masked, order, 1)
    return np.where(np.isneginf(best), NO_ROW, order).astype(np.int32)


def _best_of_many(scores: FloatArray, k: int) -> RowArray:
    """As `best_columns`, without sorting all columns of a wide array."""
    if scores.shape[1] <= 4 * k:
        return best_columns(scores, k)
    kth = np.partition(scores, -k, axis=1)[:, -k]
    out = np.zeros((len(scores), k), np.int32)
    for query, bound in enumerate(kth):
        contenders = np.flatnonzero(scores[query] >= bound)  # more than k where scores tie
        best = best_columns(scores[query, contenders][None], k)[0]
        out[query] = contenders[best]
    return out


def _is_member(rows: RowArray, seen: Sequence[RowArray], n_items: int) -> NDArray[np.bool_]:
    """Whether each row is among its query's seen rows, [B, C]."""
    member = np.zeros(rows.shape, np.bool_)
    flags = np.zeros(n_items + 1, np.bool_)  # the last cell is row -1
    for query, query_seen in enumerate(seen):
        flags[query_seen] = True
        flags[NO_ROW] = False
        member[query] = flags[rows[query]]
        flags[query_seen] = False
    return member


def _row_map(item_ids: Sequence[str], others: Sequence[str]) -> RowArray:
    """Rows of one item table to rows of another; the last cell maps -1 to -1."""
    row_of = {item_id: row for row, item_id in enumerate(others)}
    return np.asarray([*(row_of.get(item_id, NO_ROW) for item_id in item_ids), NO_ROW], np.int32)
