"""One request on its way through the graph and the answer it becomes; plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from recsys.bundles.item_table import ItemTable
from recsys.features import FeatureSchema
from recsys.ordering_overrides import NO_OVERRIDES
from recsys.types import Batch
from serve_app.http.recommend_requests import RecommendRequest


def stays() -> bool:
    """Of a caller nobody watches."""
    return False


@dataclass(frozen=True, slots=True)
class Ask:
    """An admitted request with everything its answer depends on."""

    request: RecommendRequest
    request_id: str
    variant: str
    received_at_ms: int
    expires_at_s: float
    """On the monotonic clock."""
    experiment: str | None = None
    """What its slate is compared under; None where it is not."""
    experiments: tuple[str, ...] = ()
    """The sides it is answered under, each as `EXPERIMENT_ID:ARM`."""
    overrides: bytes = NO_OVERRIDES
    """Ordering settings put over the bundle's own, as `recsys.ordering_overrides` packs them."""
    has_left: Callable[[], bool] = stays
    """Whether its caller is known to have gone."""

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
class Seed:
    """The item whose neighbour another one is."""

    item_id: str
    title: str


@dataclass(frozen=True, slots=True)
class HistoryCause:
    """One event of the user's history and what an item owes to it."""

    item_id: str
    title: str
    kind: str
    contribution: float
    """The item's score less its score without this event; below 0 where the event spoke against
    it."""


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
    places_moved: int = 0
    """How many places ordering moved it up from its rank by score; below 0 is down."""
    seed: Seed | None = None
    """Of the neighbours source: what it goes together with."""
    history: list[HistoryCause] | None = None
    """What counted most, largest first, whatever the sign; null where it could not be found out."""
    features: dict[str, float] | None = None
    """Per feature the score less the score without it; null where it could not be found out."""


@dataclass(frozen=True, slots=True, eq=False)
class ToAttribute:
    """What the scorer is asked about the items of one answer, and how to read its reply."""

    batch: Batch
    """As for `recsys.leave_one_out.attribute`, of one request."""
    items: ItemTable
    schema: FeatureSchema


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
    to_attribute: ToAttribute | None = None
    """For an ask that wants explanations; None too where its candidates were not scored."""
    diversity: float | None = None
    """Of what is shown, as `recsys.list_traits` has it; None where the catalogue cannot tell."""
    novelty: float | None = None
    """Likewise, in bits; None where nothing is shown."""
