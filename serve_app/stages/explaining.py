"""Explaining: what the items of one answer owe to the user's history and to the scorer's inputs.

Asked after the answer is made, for its own request alone, so that no request beside it waits.
Whatever goes wrong leaves the answer as it was, and is named in `degraded`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from recsys.features import FIRST_KIND
from recsys.stages import ATTRIBUTED
from recsys.types import Batch, FloatArray, RowArray
from serve_app.asks import Answer, Explanation, HistoryCause, ToAttribute
from serve_app.stages.placement import BundleMiss, StageClient, StageFailure, try_stage
from serve_app.telemetry import Telemetry

EXPLAIN = "explain"
"""The scorer by a client of its own: calls that were given little time must not have it left
alone, as one that keeps failing is, when slates are scored."""
N_CAUSES = 3
"""Events that are named of each item."""
NOISE = 1e-6
"""A contribution that is less, whatever its sign, is rounding and no reason."""
_LEAST_S = 0.001
RESERVE_S = 0.02
"""Kept of the deadline, to answer in."""
OTHER_KIND = "other"
"""What is answered of a kind that the bundle was not trained with."""


class Explainer:
    """Adds what counted to the explanations of an answer.

    Args:
        scorer: asked one thing at a time, so that scoring waits for one explanation at most.
        timeout_s: a call that takes longer is given up, within the deadline.
    """

    def __init__(self, scorer: StageClient, timeout_s: float, telemetry: Telemetry) -> None:
        self._scorer = scorer
        self._timeout_s = timeout_s
        self._telemetry = telemetry
        self._turn = asyncio.Semaphore(1)

    async def explain(self, answer: Answer) -> Answer:
        """The answer with `history` and `features` in its explanations, or named as degraded."""
        if not answer.explanations:
            return answer
        started_s = time.monotonic()
        found = await self._ask(answer)
        elapsed_ms = round((time.monotonic() - started_s) * 1000, 3)
        self._telemetry.observe("flywheel_stage_ms", elapsed_ms, stage=EXPLAIN)
        answer = replace(answer, stage_ms={**answer.stage_ms, EXPLAIN: elapsed_ms})
        if isinstance(found, StageFailure):
            self._telemetry.count("flywheel_degraded", reason=str(found))
            return replace(answer, degraded=(*answer.degraded, str(found)))
        return replace(answer, explanations=found)

    async def _ask(self, answer: Answer) -> list[Explanation] | StageFailure:
        asked = answer.to_attribute
        if asked is None or answer.explanations is None:
            return StageFailure(EXPLAIN, "unavailable")
        ends_s = min(
            answer.ask.expires_at_s - RESERVE_S,
            time.monotonic() + self._timeout_s,
        )
        if ends_s <= time.monotonic():
            return StageFailure(EXPLAIN, "timeout")
        try:
            async with asyncio.timeout(ends_s - time.monotonic()):
                await self._turn.acquire()
        except TimeoutError:
            return StageFailure(EXPLAIN, "timeout")
        # The call has its own time limit: ended from out here, no breaker would count it.
        try:
            reply = await try_stage(
                self._scorer,
                EXPLAIN,
                "attribute",
                answer.bundle_id,
                asked.batch,
                max(ends_s - time.monotonic(), _LEAST_S),
            )
        except BundleMiss:
            return StageFailure(EXPLAIN, "unavailable")
        finally:
            self._turn.release()
        if isinstance(reply, StageFailure):
            return reply
        return _with_causes(answer.explanations, asked, reply)


def _with_causes(
    explanations: Sequence[Explanation], asked: ToAttribute, reply: Batch
) -> list[Explanation]:
    places, events, features = reply["places"][0], reply["events"][0], reply["features"][0]
    return [
        replace(
            explanation,
            history=_causes(asked, places, events[:, item]),
            features={
                name: value
                for name, value in zip(ATTRIBUTED, features[:, item].tolist(), strict=True)
                if np.isfinite(value)
            },
        )
        for item, explanation in enumerate(explanations)
    ]


def _causes(asked: ToAttribute, places: RowArray, contributions: FloatArray) -> list[HistoryCause]:
    """The events that count most for one item, from its contributions [R] of events at places."""
    size = np.where(np.isfinite(contributions), np.abs(contributions), 0.0)
    size[places < 0] = 0.0
    largest = np.argsort(-size, kind="stable")[:N_CAUSES]
    rows, kinds = asked.batch["items"][0], asked.batch["kinds"][0]
    return [
        HistoryCause(
            item_id=asked.items.item_ids[rows[place]],
            title=asked.items.titles[rows[place]],
            kind=_kind_name(asked, int(kinds[place])),
            contribution=float(contributions[event]),
        )
        for event, place in zip(largest.tolist(), places[largest].tolist(), strict=True)
        if size[event] > NOISE
    ]


def _kind_name(asked: ToAttribute, code: int) -> str:
    return asked.schema.kinds[code - FIRST_KIND] if code >= FIRST_KIND else OTHER_KIND
