"""What the scorer's network reads and what its output means, compiled around its products.

Legend: B requests, C candidates, R newest history events, E = R + 1 with one that is nothing,
D width, F first hidden width, S side features, A actions, X = D + S + 2 columns of a candidate:
its vector, its side features, a one, and its chance.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import BOOL, FLOAT, NOTHING, compiled, given, written
from recsys.kernels.inner_product import inner_product
from recsys.kernels.tower_tokens import gap_bucket
from recsys.types import FloatArray, RowArray

Values: TypeAlias = NDArray[np.float64]

_OTHER_KIND = 1


@compiled(
    BOOL,
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.int8, 2),
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.float32, 2),
    given(numba.float32, 1),
    FLOAT,
    FLOAT,
    FLOAT,
    written(numba.float32, 3),
    written(numba.float32, 2),
)
def fill_candidates(
    rows: RowArray,
    user_emb: FloatArray,
    sources: NDArray[np.int8],
    ranks: RowArray,
    chances: FloatArray,
    vectors: FloatArray,
    popularity: FloatArray,
    vector_scale: float,
    score_center: float,
    score_spread: float,
    features: FloatArray,
    retrieval_scores: FloatArray,
) -> bool:
    """Fill what the network reads of candidates; False where a row is beyond the vectors.

    Args:
        rows: [B, C]; padding reads item 0, as in `CandidateScorer.score`.
        user_emb: [B, D].
        sources: [B, C], like ranks.
        chances: in standard units, [B, C].
        vectors: of items, [N, D].
        popularity: [N].
        vector_scale: see `ScorerConfig`, like center and spread.
        features: filled, [B, C, X].
        retrieval_scores: filled, [B, C].
    """
    dim = vectors.shape[1]
    n_columns = features.shape[2]
    n_sources = (n_columns - dim - 4) // 2
    scale, center = np.float32(vector_scale), np.float32(score_center)
    for request in range(len(rows)):
        for candidate in range(rows.shape[1]):
            row = max(rows[request, candidate], 0)
            if row >= len(vectors):
                return False
            score = inner_product(user_emb[request], vectors[row])
            retrieval_scores[request, candidate] = score
            own = features[request, candidate]
            for d in range(dim):
                own[d] = vectors[row, d] * scale
            own[dim:] = 0.0
            own[dim] = (score - center) / np.float32(score_spread)
            own[dim + 1] = popularity[row]
            source = max(sources[request, candidate], 0)
            if source < n_sources:
                rank = np.float32(math.log1p(max(ranks[request, candidate], 0)))
                own[dim + 2 + source] = 1.0
                # Near 0 in the middle of a list of 200.
                own[dim + 2 + n_sources + source] = rank - np.float32(4.0)
            own[n_columns - 2] = 1.0
            own[n_columns - 1] = chances[request, candidate]
    return True


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.uint8, 2),
    given(numba.float64, 2),
    given(numba.float32, 2),
    FLOAT,
    given(numba.float32, 1),
    given(numba.float32, 1),
    given(numba.float32, 2),
    given(numba.float32, 2),
    given(numba.int64, 1),
    written(numba.float32, 3),
    written(numba.float32, 2),
    written(numba.float32, 3),
)
def fill_events(
    items: RowArray,
    kinds: NDArray[np.uint8],
    ages_s: Values,
    vectors: FloatArray,
    vector_scale: float,
    kind_bias: FloatArray,
    place_bias: FloatArray,
    kind_values: FloatArray,
    gap_values: FloatArray,
    bounds_ms: NDArray[np.int64],
    recent: FloatArray,
    bias: FloatArray,
    context: FloatArray,
) -> None:
    """Fill what the network reads of the newest events; the first of E is nothing to attend to.

    Args:
        items: [B, L] of rows that the vectors have, -1 is padding, like kinds and ages.
        vectors: of items, [N, D].
        vector_scale: see `ScorerConfig`.
        kind_bias: [kinds]; a kind beyond them is read as any other.
        place_bias: [at least R], the newest last.
        kind_values: [kinds, F].
        gap_values: [buckets, F], of the time to the newest event.
        bounds_ms: between the buckets of gaps.
        recent: filled, [B, E, D].
        bias: filled, [B, E], of attention; -inf for padding.
        context: filled, [B, E, F].
    """
    n_recent = recent.shape[1] - 1
    first = items.shape[1] - n_recent
    for request in range(len(items)):
        recent[request, 0, :] = 0.0
        context[request, 0, :] = 0.0
        bias[request, 0] = 0.0
        for event in range(n_recent):
            column = first + event
            row = items[request, column]
            kind = np.int64(kinds[request, column]) if row >= 0 else 0
            if kind >= len(kind_bias):
                kind = _OTHER_KIND
            own = recent[request, event + 1]
            for d in range(len(own)):
                own[d] = vectors[max(row, 0), d] * np.float32(vector_scale)
            place = len(place_bias) - n_recent + event
            bias[request, event + 1] = (
                kind_bias[kind] + place_bias[place] if kind else np.float32(-np.inf)
            )
            since_s = ages_s[request, column] - ages_s[request, -1]
            gap = gap_bucket(since_s, bounds_ms)
            for f in range(context.shape[2]):
                context[request, event + 1, f] = kind_values[kind, f] + gap_values[gap, f]


@compiled(FLOAT, FLOAT)
def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


@compiled(
    NOTHING,
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.float32, 3),
    given(numba.float32, 2),
    given(numba.float64, 1),
    given(numba.float64, 2),
    written(numba.float32, 3),
    written(numba.float32, 2),
)
def fill_estimates(
    rows: RowArray,
    retrieval_scores: FloatArray,
    output: FloatArray,
    chances: FloatArray,
    calibration: Values,
    actions: Values,
    probabilities: FloatArray,
    utility: FloatArray,
) -> None:
    """Fill what `action_probabilities` makes of the network's output, and what it is worth.

    Args:
        rows: [B, C], -1 is padding.
        retrieval_scores: [B, C].
        output: residual and deviations of action log odds, [B, C, 1 + A].
        chances: in standard units, [B, C].
        calibration: score center and gain, chance gain, blend, slope, offset, acted rate.
        actions: log odds, trust, whether negative, and utility weight of each action, [A, 4].
        probabilities: filled, [B, C, A].
        utility: filled, [B, C]; -inf for padding and where there is no finite estimate.
    """
    center, gain, chance_gain, blend = (
        calibration[0],
        calibration[1],
        calibration[2],
        calibration[3],
    )
    slope, offset, acted_rate = calibration[4], calibration[5], calibration[6]
    for request in range(len(rows)):
        for candidate in range(rows.shape[1]):
            said = output[request, candidate]
            base = (retrieval_scores[request, candidate] - center) * gain
            residual = said[0] + chance_gain * chances[request, candidate]
            engaged = _sigmoid(slope * (base + blend * residual) + offset)
            worth = 0.0
            for action in range(len(actions)):
                acted = acted_rate if actions[action, 2] > 0.0 else engaged
                deviation = actions[action, 1] * said[1 + action]
                chance = acted * _sigmoid(actions[action, 0] + deviation)
                probabilities[request, candidate, action] = chance
                worth += actions[action, 3] * chance
            if rows[request, candidate] < 0 or not math.isfinite(worth):
                worth = -np.inf
            utility[request, candidate] = worth
