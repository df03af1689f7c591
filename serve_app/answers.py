"""Answers as they leave: the JSON of the response, and the impression for the log."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from recsys.events import DroppedItem, Impression, ShownItem, UnshownItem
from serve_app.asks import Answer, Chosen, Dropped, Explanation


class AnsweredItem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One position of a response."""

    item_id: str
    position: int
    score: float
    propensity: float
    source: str
    explanation: Explanation | None = None


class AnswerBody(msgspec.Struct, frozen=True):
    """The response of `/v1/recommend`."""

    request_id: str
    bundle_id: str
    variant: str
    items: list[AnsweredItem]
    coverage: float
    degraded: tuple[str, ...]


_encoder = msgspec.json.Encoder()


def answer_json(answer: Answer) -> bytes:
    """The response body."""
    shown = answer.shown
    explanations: Sequence[Explanation | None] = answer.explanations or [None] * len(shown.item_ids)
    items = [
        AnsweredItem(*fields)
        for fields in zip(
            shown.item_ids,
            range(len(shown.item_ids)),
            shown.scores,
            answer.propensities,
            shown.sources,
            explanations,
            strict=True,
        )
    ]
    body = AnswerBody(
        answer.ask.request_id,
        answer.bundle_id,
        answer.ask.variant,
        items,
        answer.coverage,
        answer.degraded,
    )
    return _encoder.encode(body)


def impression_of(answer: Answer, event_id: str) -> Impression:
    """What was shown and why, as training and evaluation will read it."""
    return Impression(
        event_id=event_id,
        request_id=answer.ask.request_id,
        user_id=answer.ask.request.user_id,
        timestamp_ms=answer.ask.received_at_ms,
        bundle_id=answer.bundle_id,
        variant=answer.ask.variant,
        experiment=answer.ask.experiment,
        experiments=answer.ask.experiments,
        slate=tuple(_shown_items(answer)),
        unshown=tuple(_unshown_items(answer.unshown)),
        dropped=tuple(_dropped_items(answer.dropped)),
        n_dropped=answer.dropped.n_dropped,
        history_version=answer.history_version,
        history_items=answer.history_items,
        context=answer.ask.request.context,
        coverage=answer.coverage,
        degraded=answer.degraded,
        stage_ms=answer.stage_ms,
        diversity=answer.diversity,
        novelty=answer.novelty,
    )


def _shown_items(answer: Answer) -> list[ShownItem]:
    shown = answer.shown
    return [
        ShownItem(
            item_id=item_id,
            position=position,
            score=score,
            propensity=propensity,
            source=source,
            retrieval_score=retrieval_score,
            retrieval_rank=retrieval_rank,
        )
        for position, (
            item_id,
            score,
            propensity,
            source,
            retrieval_score,
            retrieval_rank,
        ) in enumerate(
            zip(
                shown.item_ids,
                shown.scores,
                answer.propensities,
                shown.sources,
                shown.retrieval_scores,
                shown.retrieval_ranks,
                strict=True,
            )
        )
    ]


def _unshown_items(unshown: Chosen) -> list[UnshownItem]:
    return [
        UnshownItem(
            item_id=item_id,
            score=score,
            score_rank=score_rank,
            source=source,
            retrieval_score=retrieval_score,
            retrieval_rank=retrieval_rank,
        )
        for item_id, score, score_rank, source, retrieval_score, retrieval_rank in zip(
            unshown.item_ids,
            unshown.scores,
            unshown.score_ranks,
            unshown.sources,
            unshown.retrieval_scores,
            unshown.retrieval_ranks,
            strict=True,
        )
    ]


def _dropped_items(dropped: Dropped) -> list[DroppedItem]:
    return [
        DroppedItem(
            item_id=item_id,
            source=source,
            retrieval_score=retrieval_score,
            retrieval_rank=retrieval_rank,
        )
        for item_id, source, retrieval_score, retrieval_rank in zip(
            dropped.item_ids,
            dropped.sources,
            dropped.retrieval_scores,
            dropped.retrieval_ranks,
            strict=True,
        )
    ]
