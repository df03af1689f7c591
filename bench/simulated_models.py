"""Models trained on the log of a simulated world, and the pages they make for its users.

No index, no server: retrieval is exact, and the sources beside it are those asked for. The rows of
a model are its item table's; `world_items` translates them. U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import ItemTable, write_item_table
from recsys.candidates import CandidateSet, merge_sources
from recsys.learning_settings import ScorerSettings, TowerSettings, TrainSettings
from recsys.scorer import load_scorer
from recsys.settings import OrderingSettings, RetrievalSettings, Settings
from recsys.simulated.simulated_population import DAY_MS
from recsys.simulated.simulation import HistoryColumns, World
from recsys.slate import ItemFacts, order_slates
from recsys.two_tower import UserEncoder, load_towers
from recsys.types import NO_ROW, Batch, RowArray, Source
from train_app.evaluation.baselines import popularity
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking.scorer_examples import histories_at
from train_app.learning.train_joint import train_models

PAGE = 10


def learning_settings(folder: Path, seed: int, *, epochs: int, n_candidates: int) -> Settings:
    """Settings that fit a small world; no limit of minutes, so that a seed gives one result."""
    towers = TowerSettings(
        embedding_dim=32,
        n_layers=1,
        history_length=40,
        batch_size=16,
        learning_rate=3e-3,
        epochs=epochs,
        max_minutes=0,
        n_negatives=128,
        dropout=0.2,
    )
    scorer = ScorerSettings(hidden_dims=(32, 16), batch_size=64, epochs=3, max_minutes=0)
    train = TrainSettings(seed=seed, towers=towers, scorer=scorer, precision="float32", n_threads=1)
    warm = train.warm.model_copy(update={"max_minutes": 0.0})
    return Settings(
        data_dir=folder,
        train=train.model_copy(update={"warm": warm}),
        retrieval=RetrievalSettings(n_candidates=n_candidates),
    )


@dataclass(frozen=True)
class LoggedWorld:
    """A world and the log that its users left."""

    world: World
    log: HistoryColumns

    def known(self, table_day: float, until_day: float) -> Interactions:
        """The engagements before a day, with the items that had appeared by another."""
        start_ms = self.world.settings.start_ms
        items = self.world.items(start_ms + int(table_day * DAY_MS))
        names = {item.item_id for item in items}
        until_ms = start_ms + int(until_day * DAY_MS)
        kept = [
            at
            for at, item_id in enumerate(self.log.item_ids)
            if item_id in names and self.log.timestamps_ms[at] < until_ms
        ]
        return interactions_from_columns(
            [self.log.user_ids[at] for at in kept],
            [self.log.item_ids[at] for at in kept],
            [self.log.kinds[at] for at in kept],
            self.log.timestamps_ms[kept],
            items=items,
        )


def train(
    learned: Interactions, settings: Settings, models: Path, warm_start: Path | None = None
) -> None:
    """Train towers and scorer; what is left in `models` can be started from."""
    train_models(learned, settings, models, warm_start=warm_start, report=lambda label, share: None)
    recent = popularity(learned, settings.events.negative_kinds, 0)
    write_item_table(models, learned.items, recent)


class PageMaker:
    """Pages of trained models for every user of a log, as of a day.

    Args:
        history: what the users did until then, with the items that the models know.
    """

    def __init__(self, models: Path, logged: LoggedWorld, history: Interactions, day: float):
        self._world = logged.world
        self._items = ItemTable.read(models)
        self._scorer = load_scorer(models)
        self._encoder = UserEncoder.of(load_towers(models).eval())
        self._history = history
        self._moment_ms = logged.world.settings.start_ms + int(day * DAY_MS)
        user_of = {user_id: user for user, user_id in enumerate(logged.world.user_ids)}
        self.users = np.array([user_of[user_id] for user_id in history.user_ids], np.int64)
        row_of = {item.item_id: row for row, item in enumerate(logged.world.all_items)}
        own = [row_of[item_id] for item_id in self._items.item_ids]
        self.world_items = np.array([*own, NO_ROW], np.int64)  # the last cell is of row -1

    @cached_property
    def _asked(self) -> tuple[Batch, list[RowArray]]:
        """What the models read of every user, and the rows each user has engaged with."""
        own = self._history
        moments_ms = np.full(own.n_users, self._moment_ms)
        length = self._encoder.config.history_length
        batch = histories_at(own, np.arange(own.n_users), own.offsets[1:], moments_ms, length)
        batch["user_emb"] = self._encoder.encode(batch)
        ends = zip(own.offsets[:-1], own.offsets[1:], strict=True)
        return batch, [own.rows[begin:end] for begin, end in ends]

    def pages(
        self,
        retrieval: RetrievalSettings,
        ordering: OrderingSettings,
        seed: int = 0,
        among: NDArray[np.int64] | None = None,
    ) -> NDArray[np.int64]:
        """Item indices of the world, [U, PAGE], -1 where a page is shorter.

        Args:
            among: item indices of the world that pages may hold; all where left out.
        """
        batch, _ = self._asked
        found = self._candidates(retrieval, among)
        scored = self._scorer.score(
            {**batch, "rows": found.rows, "sources": found.sources, "ranks": found.ranks}
        )
        slates = order_slates(
            scored["utility"],
            found.rows,
            ItemFacts.nothing(int(found.rows.max(initial=0)) + 1),
            np.full(len(found.rows), PAGE, np.int32),
            np.random.default_rng(seed).integers(0, 2**63, len(found.rows), np.uint64),
            ordering,
        )
        picked = np.take_along_axis(found.rows, np.maximum(slates.picked, 0), 1)
        return self.world_items[np.where(slates.picked >= 0, picked, NO_ROW)]

    def _candidates(
        self, retrieval: RetrievalSettings, among: NDArray[np.int64] | None
    ) -> CandidateSet:
        """The index's, with the fresh items beside them."""
        batch, seen = self._asked
        is_left_out = np.zeros(len(self._items), np.bool_)
        if among is not None:
            is_left_out = ~np.isin(self.world_items[:-1], among)
        scores = batch["user_emb"] @ self._scorer.vectors.numpy().T
        for user, rows in enumerate(seen):
            scores[user, rows] = -np.inf
        scores[:, is_left_out] = -np.inf
        order = np.argsort(-scores, axis=1)[:, : retrieval.n_candidates]
        best = np.take_along_axis(scores, order, 1)
        index = np.where(np.isfinite(best), order, NO_ROW).astype(np.int32)
        fresh = self._items.fresh_rows(retrieval.fresh_days)[: retrieval.n_fresh]
        everybody = np.broadcast_to(fresh, (len(index), len(fresh))).astype(np.int32)
        extras = [(Source.FRESH, everybody)]
        return merge_sources(index, best, extras, seen, is_left_out, retrieval.n_candidates)
