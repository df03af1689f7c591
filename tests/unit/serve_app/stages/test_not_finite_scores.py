"""Requests of which the scorer has no finite estimate: answered by retrieval, named and counted."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np
import pytest

from recsys.candidates import CandidateSet
from recsys.types import Batch, FloatArray, Source
from serve_app.stages.scoring import Scores, retrieval_order, score_candidates

N_ACTIONS = 3


@dataclass
class Scorer:
    """Answers with what it was given."""

    utility: FloatArray
    n_asked: int = field(default=0)

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        self.n_asked += 1
        shape = self.utility.shape
        return {
            "utility": self.utility,
            "retrieval_scores": np.zeros(shape, np.float32),
            "probabilities": np.where(np.isfinite(self.utility)[:, :, None], 0.5, np.nan).repeat(
                N_ACTIONS, axis=2
            ),
        }


def candidates_of(rows: list[list[int]]) -> CandidateSet:
    """Of the index, in the order of their columns."""
    found = np.asarray(rows, np.int32)
    return CandidateSet(
        rows=found,
        sources=np.full(found.shape, Source.INDEX, np.int8),
        ranks=np.broadcast_to(np.arange(found.shape[1], dtype=np.int32), found.shape),
        retrieval_scores=np.ones(found.shape, np.float32),
        n_removed=np.zeros(len(found), np.int32),
    )


def scored(utility: list[list[float]], rows: list[list[int]]) -> Scores:
    """What score_candidates makes of it."""
    values = np.asarray(utility, np.float32)
    users = np.ones((len(values), 4), np.float32)
    return asyncio.run(
        score_candidates(Scorer(values), "b1", {}, users, candidates_of(rows), timeout_s=1.0)
    )


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_a_request_without_a_finite_score_is_in_the_order_of_retrieval(value: float) -> None:
    """Padding stays out; its neighbour keeps its scores to the bit."""
    rows = [[4, 5, -1], [6, 7, 8]]
    found = scored([[value, value, -np.inf], [0.25, 0.5, value]], rows)
    assert found.is_unscored is not None
    assert found.is_unscored.tolist() == [True, False]
    stand_in = retrieval_order(candidates_of(rows), None).utility
    assert found.utility[0].tolist() == stand_in[0].tolist()
    assert found.utility[1, :2].tolist() == [0.25, 0.5]
    assert not np.isfinite(found.utility[1, 2])
    assert found.probabilities_of(0) is None
    assert found.probabilities_of(1) is not None


def test_finite_scores_and_empty_requests_are_left_as_they_are() -> None:
    """Nothing to score is not a failure of the scorer."""
    found = scored([[0.25, -np.inf], [-np.inf, -np.inf]], [[4, 5], [-1, -1]])
    assert found.is_unscored is None
    assert found.utility.tolist() == [[0.25, -np.inf], [-np.inf, -np.inf]]
