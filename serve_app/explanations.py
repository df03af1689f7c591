"""Why each shown item stands where it stands, as far as the arrays of its batch tell it.

What its history has to do with it is not in them: that is asked afterwards, in
`serve_app.stages.explaining`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.candidates import CandidateSet
from recsys.dropped_candidates import DroppedDraw
from recsys.neighbour_candidates import NeighbourTable, newest_seeds, seed_kinds
from recsys.neighbour_seeds import strongest_seeds
from recsys.ordering_overrides import NO_OVERRIDES, put_over
from recsys.settings import OrderingSettings, Settings
from recsys.types import NO_ROW, Batch, RowArray, Source
from serve_app.asks import Chosen, Explanation, Seed, ToAttribute
from serve_app.residents.bundle_loading import GatewayBundle
from serve_app.stages.ordering import Ordered
from serve_app.stages.scoring import Scores

PROPENSITY_NOISE = 1e-6


@dataclass(frozen=True, slots=True)
class BatchColumns:
    """Everything known of a batch's candidates."""

    features: Batch
    """The histories, as `recsys.features.history_arrays` makes them."""
    candidates: CandidateSet
    scores: Scores
    ordered: Ordered
    dropped: DroppedDraw
    neighbours: NeighbourTable | None
    """What the neighbours source read."""


def explain_shown(
    bundle: GatewayBundle,
    columns: BatchColumns,
    shown: Chosen,
    request: int,
    settings: Settings,
    overrides: bytes = NO_OVERRIDES,
) -> list[Explanation]:
    """The explanations of one request's slate, without what the history has to do with it.

    Args:
        overrides: what was put over the bundle's ordering settings for it.
    """
    picked = columns.ordered.picked[request]
    probabilities = columns.scores.probabilities_of(request)
    policy = put_over(bundle.ordering, overrides)
    seeds = _seeds(bundle, columns, request, len(shown.item_ids), settings)
    explanations = []
    for position, item_id in enumerate(shown.item_ids):
        score_rank = shown.score_ranks[position]
        better = score_rank - sum(rank < score_rank for rank in shown.score_ranks[:position])
        propensity = float(columns.ordered.propensity[request, position])
        chances: dict[str, float] = {}
        if probabilities is not None:
            estimated = map(float, probabilities[picked[position]])
            chances = dict(zip(bundle.actions, estimated, strict=True))
        explanations.append(
            Explanation(
                title=bundle.items.titles[bundle.items.row_of[item_id]],
                source=shown.sources[position],
                retrieval_score=shown.retrieval_scores[position],
                retrieval_rank=shown.retrieval_ranks[position],
                action_probabilities=chances,
                score_rank=score_rank,
                moved_by=_mover(better, propensity, policy),
                places_moved=score_rank - position,
                seed=seeds[position],
            )
        )
    return explanations


def to_attribute(
    bundle: GatewayBundle, columns: BatchColumns, request: int, n_events: int
) -> ToAttribute | None:
    """What to ask the scorer about a request's slate; None where its candidates have no score.

    Args:
        n_events: newest events that are left out one at a time.
    """
    if columns.scores.probabilities_of(request) is None:
        return None
    found, one = columns.candidates, slice(request, request + 1)
    picked = columns.ordered.picked[request]
    picked = picked[picked >= 0]
    batch: Batch = {
        **{name: array[one] for name, array in columns.features.items()},
        "rows": found.rows[one, picked],
        "sources": found.sources[one, picked],
        "ranks": found.ranks[one, picked],
        "n_events": np.asarray([n_events], np.int32),
    }
    return ToAttribute(batch, bundle.items, bundle.schema)


def _mover(n_better_left: int, propensity: float, policy: OrderingSettings) -> str | None:
    """What took the item past better-scored ones that the items above it left unshown.

    A propensity that the policy's own choice would exceed proves a draw. Any other could be of
    both, and the likelier one is named.
    """
    greedy = 1.0 - policy.exploration
    if propensity < greedy - PROPENSITY_NOISE:
        return "exploration"
    if n_better_left == 0:
        return None
    reorders = policy.diversity > 0.0 or policy.max_per_category or policy.max_per_creator
    return "diversity" if reorders and greedy > 0.5 * propensity else "exploration"


def _seeds(
    bundle: GatewayBundle, columns: BatchColumns, request: int, n_shown: int, settings: Settings
) -> list[Seed | None]:
    """Per shown item what it goes together with, where the neighbours source brought it."""
    picked = columns.ordered.picked[request][:n_shown]
    rows = columns.candidates.rows[request][picked]
    is_neighbour = columns.candidates.sources[request][picked] == Source.NEIGHBOURS
    if columns.neighbours is None or not is_neighbour.any():
        return [None] * n_shown
    history = {name: array[request : request + 1] for name, array in columns.features.items()}
    is_seed_kind = seed_kinds(bundle.schema.kinds, settings.events.negative_kinds)
    newest: RowArray = newest_seeds(history, is_seed_kind, settings.retrieval.neighbour_seeds)[0]
    brought = np.where(is_neighbour, strongest_seeds(columns.neighbours, newest, rows), NO_ROW)
    items = bundle.items
    return [
        None if row < 0 else Seed(items.item_ids[row], items.titles[row])
        for row in brought.tolist()
    ]
