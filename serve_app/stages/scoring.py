"""Scoring: what the scorer's answer becomes, and what stands in when there is none."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import CandidateSet
from recsys.types import Batch, FloatArray
from serve_app.stages.placement import StageClient, StageFailure, try_stage

NOT_FINITE = str(StageFailure("score", "not finite"))
"""Why a request is answered in the order of retrieval although the scorer answered."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scored candidates of a batch."""

    utility: FloatArray  # [B, C], -inf for what must not be shown
    retrieval_scores: FloatArray  # [B, C]
    probabilities: FloatArray | None  # [B, C, A]
    failure: StageFailure | None = None
    is_unscored: NDArray[np.bool_] | None = None
    """[B], requests with candidates of which the scorer had no finite estimate; None: nobody."""

    def probabilities_of(self, request: int) -> FloatArray | None:
        """[C, A] of one request; None where the scorer estimated nothing for it."""
        if self.probabilities is None:
            return None
        if self.is_unscored is not None and self.is_unscored[request]:
            return None
        found: FloatArray = self.probabilities[request]
        return found


async def score_candidates(
    scorer: StageClient,
    bundle_id: str,
    features: Batch,
    user_emb: FloatArray | None,
    candidates: CandidateSet,
    timeout_s: float,
) -> Scores:
    """Score, or fall back to the order of retrieval.

    Args:
        user_emb: None where encoding failed already; the scorer is then not asked.

    Raises:
        BundleMiss: the scorer does not hold the bundle.
    """
    if user_emb is None:
        return retrieval_order(candidates, None)
    batch = {
        **features,
        "user_emb": user_emb,
        "rows": candidates.rows,
        "sources": candidates.sources,
        "ranks": candidates.ranks,
    }
    answer = await try_stage(scorer, "scorer", "score", bundle_id, batch, timeout_s)
    if isinstance(answer, StageFailure):
        return retrieval_order(candidates, answer)
    return with_every_request_scored(
        Scores(answer["utility"], answer["retrieval_scores"], answer["probabilities"]), candidates
    )


def with_every_request_scored(scores: Scores, candidates: CandidateSet) -> Scores:
    """The scores, in the order of retrieval where a request has no finite one.

    A candidate without an estimate is left out of its slate, so a request without any would be
    answered with nothing and look whole.
    """
    has_candidates: NDArray[np.bool_] = np.any(candidates.rows >= 0, axis=1)
    has_scores: NDArray[np.bool_] = np.any(np.isfinite(scores.utility), axis=1)
    is_unscored = has_candidates & ~has_scores
    if not is_unscored.any():
        return scores
    stand_in = retrieval_order(candidates, None).utility
    utility = np.where(is_unscored[:, None], stand_in, scores.utility)
    return replace(scores, utility=utility, is_unscored=is_unscored)


def retrieval_order(candidates: CandidateSet, failure: StageFailure | None) -> Scores:
    """Utilities that fall from 1 to 0 in the order the candidates were retrieved."""
    rows = candidates.rows
    falling = np.linspace(1.0, 0.0, max(rows.shape[1], 1), dtype=np.float32)[: rows.shape[1]]
    utility = np.where(rows >= 0, falling, -np.inf).astype(np.float32)
    return Scores(utility, candidates.retrieval_scores, None, failure)
