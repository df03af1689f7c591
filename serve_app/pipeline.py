"""The request path, top to bottom: users, encode, retrieve, score, order, answer; a batch at once.

One batch is answered by one bundle. Whatever fails is left out, named in `degraded`, and never
fails a neighbour; only a request for which no source found anything is an error.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recsys.candidates import CandidateSet
from recsys.dropped_candidates import DroppedDraw
from recsys.errors import DeadlineExceeded, Overloaded, RecsysError
from recsys.features import history_arrays
from recsys.settings import Settings
from recsys.stages import ORDERING, SCORER
from recsys.stores.features.feature_store import FeatureStore
from recsys.types import Batch, UserState
from serve_app.answer_columns import answers_of
from serve_app.asks import Answer, Ask
from serve_app.explanations import BatchColumns
from serve_app.micro_batch import IsLive
from serve_app.residents.bundle_loading import GatewayBundle
from serve_app.residents.live_items import LiveItems, LiveRows
from serve_app.stages.dropped_draws import draw_for_log, seeds_of
from serve_app.stages.ladder import Rung, n_candidates_on
from serve_app.stages.ordering import Ordered, order_candidates, score_order
from serve_app.stages.placement import BundleMiss, StageClient, StageFailure, try_stage
from serve_app.stages.retrieval import (
    IndexAnswer,
    excluded_rows,
    merge_candidates,
    no_index,
    search_index,
)
from serve_app.stages.scoring import NOT_FINITE, Scores, retrieval_order, score_candidates
from serve_app.stages.trip import Trip
from serve_app.telemetry import Telemetry
from serve_app.user_reads import UserReads

logger = logging.getLogger("ray.serve")

WARN_EVERY_S = 10.0
"""Of features that cannot be read."""


class Pipeline:
    """Answers batches with the stages of any placement.

    Args:
        stages: a client per stage name.
        features: read once per batch, from another thread where that may wait.
    """

    def __init__(
        self,
        stages: Mapping[str, StageClient],
        features: FeatureStore,
        live: LiveItems,
        settings: Settings,
        telemetry: Telemetry,
    ) -> None:
        self._stages = stages
        self._users = UserReads(features, settings.features)
        self._live = live
        self._settings = settings
        self._telemetry = telemetry
        self._warn_again_s = 0.0

    async def answer(
        self,
        bundle: GatewayBundle,
        asks: Sequence[Ask],
        is_live: IsLive,
        *,
        may_miss: bool,
        rung: Rung = Rung.WHOLE,
    ) -> list[Answer | Exception]:
        """Answer a batch with one bundle, in order.

        Args:
            asks: of equal overrides.
            is_live: whether the caller of an ask still waits; work for the others is left out.
            may_miss: whether a stage without the bundle fails the requests with `BundleMiss`, so
                that another bundle can answer them whole; otherwise such a stage counts as dead.
            rung: what is left out of the answers.
        """
        try:
            return await self._answer_live(bundle, asks, is_live, rung)
        except BundleMiss as miss:
            self._telemetry.count("flywheel_bundle_miss", len(asks), bundle_id=bundle.bundle_id)
            if may_miss:
                return [miss for _ in asks]
            error = Overloaded(f"{miss}, and no other bundle may answer; try again later")
            return [error for _ in asks]

    async def _answer_live(
        self, bundle: GatewayBundle, asks: Sequence[Ask], is_live: IsLive, rung: Rung
    ) -> list[Answer | Exception]:
        trip = self._trip(asks, rung)
        n_candidates = n_candidates_on(
            rung,
            self._settings.retrieval.n_candidates,
            most_asked=max(ask.request.k for ask in asks),
        )
        users = await self._read_users(asks, trip)
        features = history_arrays(
            [user.history for user in users],
            bundle.items.row_of,
            bundle.schema,
            [ask.received_at_ms for ask in asks],
        )
        trip.done("features")
        index, user_emb = await self._retrieve(bundle, features, n_candidates, trip)
        excluded = excluded_rows(bundle, features, users, asks)
        live = self._live.rows(bundle.bundle_id, bundle.items)
        candidates = merge_candidates(
            bundle, live, index, features, excluded, self._settings, n_candidates
        )
        n_drawn = self._settings.serve.log_dropped
        dropped = draw_for_log(index, candidates, excluded, live, asks, n_drawn)
        trip.done("retrieval")

        # Scoring costs the most: whoever stopped waiting is taken out before it.
        kept = np.asarray([i for i in range(len(asks)) if is_live(i)], np.intp)
        answers: list[Answer | Exception] = [_too_late() for _ in asks]
        if len(kept):
            kept_asks = [asks[i] for i in kept]
            columns = await self._rank(
                bundle,
                kept_asks,
                {name: array[kept] for name, array in features.items()},
                None if user_emb is None else user_emb[kept],
                candidates.of(kept),
                dropped.of(kept),
                live,
                trip,
            )
            outcome = self._finish(
                bundle, kept_asks, [users[i] for i in kept], columns, index, trip
            )
            for i, answer in zip(kept, outcome, strict=True):
                answers[i] = answer
        self._record(len(asks), index, trip)
        return answers

    def _trip(self, asks: Sequence[Ask], rung: Rung) -> Trip:
        return Trip(
            expires_at_s=max(ask.expires_at_s for ask in asks),
            stage_timeout_s=self._settings.serve.stage_timeout_ms / 1000,
            rung=rung,
            degraded=[rung.reason] if rung else [],
        )

    async def _read_users(self, asks: Sequence[Ask], trip: Trip) -> list[UserState]:
        user_ids = [ask.request.user_id for ask in asks]
        try:
            return await self._users.read(user_ids)
        except (RecsysError, OSError) as error:
            trip.degraded.append("features: unavailable")
            # An absent server fails every batch; the counter has them all.
            if trip.started_s >= self._warn_again_s:
                self._warn_again_s = trip.started_s + WARN_EVERY_S
                logger.warning("features cannot be read, users are answered as unknown: %s", error)
            return [UserState(user_id) for user_id in user_ids]

    async def _retrieve(
        self, bundle: GatewayBundle, features: Batch, n_candidates: int, trip: Trip
    ) -> tuple[IndexAnswer, np.ndarray | None]:
        n_requests = len(features["items"])
        if trip.rung >= Rung.POPULAR:
            return no_index(n_requests, ()), None
        encoded = await try_stage(
            self._stages[SCORER], "encode", "encode", bundle.bundle_id, features, trip.timeout_s()
        )
        trip.done("encode")
        if isinstance(encoded, StageFailure):
            trip.failed(encoded)
            return no_index(n_requests, ()), None
        user_emb = encoded["user_emb"]
        index = await search_index(
            self._stages,
            bundle,
            user_emb,
            n_candidates,
            trip.timeout_s(),
        )
        trip.failed(*index.failures)
        return index, user_emb

    async def _rank(
        self,
        bundle: GatewayBundle,
        asks: Sequence[Ask],
        features: Batch,
        user_emb: np.ndarray | None,
        candidates: CandidateSet,
        dropped: DroppedDraw,
        live: LiveRows,
        trip: Trip,
    ) -> BatchColumns:
        scores = await self._score(bundle, features, user_emb, candidates, trip)
        trip.failed(scores.failure)
        trip.done("score")
        ordered = await self._order(bundle, asks, candidates, scores, trip)
        trip.failed(ordered.failure)
        trip.done("order")
        return BatchColumns(features, candidates, scores, ordered, dropped, live.neighbours)

    async def _score(
        self,
        bundle: GatewayBundle,
        features: Batch,
        user_emb: np.ndarray | None,
        candidates: CandidateSet,
        trip: Trip,
    ) -> Scores:
        if trip.rung >= Rung.UNSCORED:
            return retrieval_order(candidates, None)
        return await score_candidates(
            self._stages[SCORER], bundle.bundle_id, features, user_emb, candidates, trip.timeout_s()
        )

    async def _order(
        self,
        bundle: GatewayBundle,
        asks: Sequence[Ask],
        candidates: CandidateSet,
        scores: Scores,
        trip: Trip,
    ) -> Ordered:
        k = np.asarray([ask.request.k for ask in asks], np.int32)
        if trip.rung >= Rung.POPULAR:
            return score_order(scores.utility, k, None)
        return await order_candidates(
            self._stages[ORDERING],
            bundle.bundle_id,
            candidates.rows,
            scores.utility,
            k,
            seeds_of(asks),
            trip.timeout_s(),
            asks[0].overrides,
        )

    def _finish(
        self,
        bundle: GatewayBundle,
        asks: Sequence[Ask],
        users: Sequence[UserState],
        columns: BatchColumns,
        index: IndexAnswer,
        trip: Trip,
    ) -> list[Answer | Exception]:
        answers = answers_of(bundle, asks, users, columns, self._settings)
        unscored = columns.scores.is_unscored
        if unscored is not None:
            n_unscored = int(unscored.sum())
            self._telemetry.count("flywheel_degraded", n_unscored, reason=NOT_FINITE)
        finished: list[Answer | Exception] = []
        for i, answer in enumerate(answers):
            if index.coverage == 0 and not answer.shown.item_ids:
                finished.append(
                    Overloaded(f"no source could be asked ({'; '.join(trip.degraded)})")
                )
                continue
            own = (NOT_FINITE,) if unscored is not None and unscored[i] else ()
            finished.append(
                replace(
                    answer,
                    coverage=index.coverage,
                    degraded=(*trip.degraded, *own),
                    stage_ms=trip.stage_ms,
                )
            )
        return finished

    def _record(self, n_asks: int, index: IndexAnswer, trip: Trip) -> None:
        self._telemetry.observe("flywheel_batch_size", n_asks)
        self._telemetry.observe("flywheel_coverage", index.coverage)
        for stage, elapsed_ms in trip.stage_ms.items():
            self._telemetry.observe("flywheel_stage_ms", elapsed_ms, stage=stage)
        for reason in trip.degraded:
            self._telemetry.count("flywheel_degraded", n_asks, reason=reason)


def _too_late() -> DeadlineExceeded:
    return DeadlineExceeded("the request's deadline passed before it was scored")
