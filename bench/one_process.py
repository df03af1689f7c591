"""The whole request path in one process, one call after another: the numerics every variant shares.

The baselines run this; the graph runs the same stages. Knows no HTTP and no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from recsys.bundles.bundle import read_manifest
from recsys.bundles.item_table import ItemTable
from recsys.candidates import CandidateSet, merge_sources, merge_top_k
from recsys.events import Impression, ShownItem, new_event_id
from recsys.features import FeatureSchema, history_arrays
from recsys.settings import Settings
from recsys.stages import ORDERING, SCORER, Stage, load_stage, shard_stage_name
from recsys.stores.features.feature_store import SqliteFeatureStore
from recsys.types import Batch, RowArray, Source, UserState
from serve_app.kept_memory import keep_freed_memory

SLATE_LENGTH = 20


class Catalogue:
    """What a request path holds of a bundle beside its stages: items, schema, extra sources."""

    def __init__(self, bundle_dir: Path, settings: Settings) -> None:
        self.manifest = read_manifest(bundle_dir)
        self.items = ItemTable.read(bundle_dir)
        self.schema = FeatureSchema.from_json(dict(self.manifest.feature_schema))
        self.retrieval = settings.retrieval
        fresh = self.items.fresh_rows(settings.retrieval.fresh_days)
        self._extras = (
            (Source.POPULAR, self.items.popular_rows[: settings.retrieval.n_popular]),
            (Source.FRESH, fresh[: settings.retrieval.n_fresh]),
        )

    def histories(self, users: Sequence[UserState]) -> Batch:
        """The history arrays of a batch of users, as of now."""
        now_ms = time.time_ns() // 1_000_000
        histories = [user.history for user in users]
        return history_arrays(histories, self.items.row_of, self.schema, [now_ms] * len(users))

    def merge(self, users: Sequence[UserState], found: Sequence[Batch]) -> CandidateSet:
        """The shards' answers and the extra sources as one candidate list per request."""
        k = self.retrieval.n_candidates
        rows, scores = merge_top_k([f["rows"] for f in found], [f["scores"] for f in found], k)
        extras = [
            (source, np.broadcast_to(row, (len(users), len(row)))) for source, row in self._extras
        ]
        seen: list[RowArray] = [
            self.items.rows_of([event.item_id for event in user.history]) for user in users
        ]
        return merge_sources(rows, scores, extras, seen, None, k)


def order_inputs(rows: RowArray, utility: np.ndarray, seed: int) -> Batch:
    """The ordering stage's input for a batch."""
    n = len(rows)
    return {
        "rows": rows,
        "utility": utility,
        "k": np.full(n, SLATE_LENGTH, np.int32),
        "seeds": np.arange(seed, seed + n, dtype=np.uint64),
    }


def impression_of(
    catalogue: Catalogue, user: UserState, found: CandidateSet, scored: Batch, slate: Batch, i: int
) -> Impression:
    """What is logged of request `i` of a batch."""
    shown = []
    for position, column in enumerate(slate["picked"][i].tolist()):
        if column < 0:
            break
        shown.append(
            ShownItem(
                item_id=catalogue.items.item_ids[int(found.rows[i, column])],
                position=position,
                score=float(scored["utility"][i, column]),
                propensity=float(slate["propensity"][i, position]),
                source=Source(int(found.sources[i, column])).name.lower(),
                retrieval_score=float(scored["retrieval_scores"][i, column]),
                retrieval_rank=int(found.ranks[i, column]),
            )
        )
    return Impression(
        event_id=new_event_id(),
        request_id=new_event_id(),
        user_id=user.user_id,
        timestamp_ms=time.time_ns() // 1_000_000,
        bundle_id=catalogue.manifest.bundle_id,
        variant="stable",
        slate=tuple(shown),
    )


def slate_document(impression: Impression, k: int = SLATE_LENGTH) -> dict[str, Any]:
    """What the HTTP baselines answer, as JSON values."""
    return {
        "request_id": impression.request_id,
        "bundle_id": impression.bundle_id,
        "items": [
            {
                "item_id": item.item_id,
                "position": item.position,
                "score": item.score,
                "propensity": item.propensity,
                "source": item.source,
            }
            for item in impression.slate[:k]
        ],
    }


class OneProcess:
    """Every stage of a bundle in this process."""

    def __init__(self, bundle_dir: Path, settings: Settings) -> None:
        keep_freed_memory()
        self.catalogue = Catalogue(bundle_dir, settings)
        self._store = SqliteFeatureStore(settings.feature_path)
        names = [shard_stage_name(shard) for shard in range(self.catalogue.manifest.n_shards)]
        self._stages: dict[str, Stage] = {
            name: load_stage(name, bundle_dir, self.catalogue.manifest, settings)
            for name in (*names, SCORER, ORDERING)
        }
        self._shards = [self._stages[name] for name in names]

    def answer(self, user_ids: Sequence[str], seed: int = 0) -> list[Impression]:
        """One slate per user, as the impressions that would be logged."""
        users = self._store.read_users(user_ids)
        history = self.catalogue.histories(users)
        scorer = self._stages[SCORER]
        query = scorer("encode", history)
        query["k"] = np.array([self.catalogue.retrieval.n_candidates], np.int32)
        found = self.catalogue.merge(users, [shard("search", query) for shard in self._shards])
        candidates: Batch = {"rows": found.rows, "sources": found.sources, "ranks": found.ranks}
        scored = scorer("score", {**history, "user_emb": query["user_emb"], **candidates})
        slate = self._stages[ORDERING]("order", order_inputs(found.rows, scored["utility"], seed))
        return [
            impression_of(self.catalogue, user, found, scored, slate, i)
            for i, user in enumerate(users)
        ]
