"""One request on its way through the graph and the answer it becomes; plain values."""

from __future__ import annotations

from dataclasses import dataclass

import xxhash

from serve_app.http.recommend_requests import RecommendRequest


@dataclass(frozen=True, slots=True)
class Ask:
    """An admitted request with everything its answer depends on."""

    request: RecommendRequest
    request_id: str
    variant: str
    received_at_ms: int
    expires_at_s: float
    """On the monotonic clock."""

    @property
    def seed(self) -> int:
        """The seed of its slate: the same request id explores the same way in any placement."""
        return xxhash.xxh64_intdigest(self.request_id.encode())


@dataclass(frozen=True, slots=True)
class Chosen:
    """Candidates of one answer as columns of equal length, in the order given."""

    item_ids: list[str]
    scores: list[float]
    sources: list[str]
    retrieval_scores: list[float]
    retrieval_ranks: list[int]
    score_ranks: list[int]


@dataclass(frozen=True, slots=True)
class Dropped:
    """Candidates drawn from those that did not make the list, as columns of equal length."""

    item_ids: list[str]
    sources: list[str]
    retrieval_scores: list[float]
    retrieval_ranks: list[int]
    n_dropped: int
    """How many they were drawn from."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one item stands where it stands."""

    title: str
    source: str
    retrieval_score: float
    retrieval_rank: int
    action_probabilities: dict[str, float]
    score_rank: int
    """Its rank by score, before ordering."""
    moved_by: str | None
    """`exploration` or `diversity` where it does not simply follow the score."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered and logged for one ask."""

    ask: Ask
    bundle_id: str
    shown: Chosen
    propensities: list[float]
    unshown: Chosen
    dropped: Dropped
    explanations: list[Explanation] | None
    coverage: float
    degraded: tuple[str, ...]
    history_version: int
    history_items: tuple[str, ...]
    stage_ms: dict[str, float]
