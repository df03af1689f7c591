"""Scoring: what the scorer's answer becomes, and what stands in when there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.candidates import CandidateSet
from recsys.types import Batch, FloatArray
from serve_app.stages.placement import StageClient, StageFailure, try_stage


@dataclass(frozen=True, slots=True)
class Scores:
    """Scored candidates of a batch."""

    utility: FloatArray  # [B, C], -inf for what must not be shown
    retrieval_scores: FloatArray  # [B, C]
    probabilities: FloatArray | None  # [B, C, A]
    failure: StageFailure | None = None


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
    return Scores(answer["utility"], answer["retrieval_scores"], answer["probabilities"])


def retrieval_order(candidates: CandidateSet, failure: StageFailure | None) -> Scores:
    """Utilities that fall from 1 to 0 in the order the candidates were retrieved."""
    rows = candidates.rows
    falling = np.linspace(1.0, 0.0, max(rows.shape[1], 1), dtype=np.float32)[: rows.shape[1]]
    utility = np.where(rows >= 0, falling, -np.inf).astype(np.float32)
    return Scores(utility, candidates.retrieval_scores, None, failure)
