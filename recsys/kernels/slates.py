"""The loops of `recsys.slate`, compiled: one slate at a time, position by position.

P is the size of a request's pool, the rest as in `recsys.slate`; "place" is one of the pool.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numba
import numpy as np
from numpy.typing import NDArray

from recsys.kernels.compiled import (
    BOOL,
    FLOAT,
    INT,
    NOTHING,
    WORD,
    compiled,
    given,
    several,
    written,
)
from recsys.kernels.inner_product import inner_product
from recsys.kernels.seeded_draws import uniform_draw
from recsys.kernels.slate_pool import Places, Values, fill_directions, fill_pool, fill_worth
from recsys.types import FloatArray, RowArray

Flags: TypeAlias = NDArray[np.bool_]

_STALE = 20.0
"""How far the best logit that is left may be from the one that weights were taken at."""
_NONE = -1


@compiled(
    BOOL,
    given(numba.boolean, 1),
    given(numba.int32, 1),
    given(numba.int32, 1),
    INT,
    INT,
    written(numba.boolean, 1),
)
def _find_feasible(
    is_used: Flags,
    n_of_category: RowArray,
    n_of_creator: RowArray,
    max_per_category: int,
    max_per_creator: int,
    feasible: Flags,
) -> bool:
    """What may be shown next: unused and within the caps, or unused where those leave nothing."""
    found = False
    for place in range(len(feasible)):
        is_capped = (max_per_category > 0 and n_of_category[place] >= max_per_category) or (
            max_per_creator > 0 and n_of_creator[place] >= max_per_creator
        )
        feasible[place] = not is_used[place] and not is_capped
        found |= feasible[place]
    if found:
        return True
    for place in range(len(feasible)):
        feasible[place] = not is_used[place]
        found |= feasible[place]
    return found


@compiled(INT, given(numba.float64, 1), given(numba.boolean, 1), FLOAT, FLOAT)
def _drawn(weights: Values, feasible: Flags, total: float, uniform: float) -> int:
    """A place by its weight: the running sum inverted at `uniform`."""
    target, running, last = uniform * total, 0.0, _NONE
    for place in range(len(weights)):
        if feasible[place] and weights[place] > 0.0:
            running += weights[place]
            last = place
            if running > target:
                break
    return last


@compiled(INT, given(numba.int64, 1), given(numba.boolean, 1), INT)
def _place_of(pool: Places, feasible: Flags, column: int) -> int:
    """Where a feasible column stands, -1 where it is none."""
    for place in range(len(feasible)):
        if pool[place] == column and feasible[place]:
            return place
    return _NONE


@compiled(
    NOTHING,
    given(numba.int32, 1),
    given(numba.int64, 1),
    given(numba.int32, 1),
    INT,
    written(numba.int32, 1),
)
def _count_code(
    codes: RowArray, pool: Places, rows: RowArray, choice: int, counts: RowArray
) -> None:
    """One more of the code of a choice, at every place of that code."""
    own = codes[rows[pool[choice]]]
    if own < 0:
        return
    for place in range(len(counts)):
        counts[place] += codes[rows[pool[place]]] == own


@compiled(FLOAT, given(numba.float64, 1), given(numba.boolean, 1), FLOAT, written(numba.float64, 1))
def _refresh(logits: Values, feasible: Flags, reference: float, weights: Values) -> float:
    """Weights of a draw, where they were taken too far from the best logit that is left."""
    top = 0
    while not feasible[top]:
        top += 1
    if abs(logits[top] - reference) <= _STALE:
        return reference
    for place in range(len(logits)):
        weights[place] = math.exp(logits[place] - logits[top])
    return logits[top]  # type: ignore[no-any-return]


@compiled(
    several(INT, FLOAT),
    given(numba.boolean, 1),
    given(numba.float64, 1),
    given(numba.float64, 1),
    FLOAT,
    given(numba.float64, 1),
)
def _greedy(
    feasible: Flags, weights: Values, worth: Values, diversity: float, closest: Values
) -> tuple[int, float]:
    """The place of greatest marginal relevance, the better scored of equals; all weights' sum."""
    greedy, best, total = _NONE, -np.inf, 0.0
    for place in range(len(worth)):
        if feasible[place]:
            total += weights[place]
            value = worth[place] - diversity * closest[place]
            if value > best or greedy == _NONE:
                best, greedy = value, place
    return greedy, total


@compiled(NOTHING, given(numba.float32, 2), INT, BOOL, written(numba.float64, 1))
def _come_closer(directions: FloatArray, choice: int, is_first: bool, closest: Values) -> None:
    """Each item's greatest cosine to the items above, with one more above."""
    for place in range(len(directions)):
        cosine = np.float64(inner_product(directions[place], directions[choice]))
        if is_first or cosine > closest[place]:
            closest[place] = cosine


_POLICY = (INT, FLOAT, FLOAT, FLOAT, INT, INT)


@compiled(
    NOTHING,
    given(numba.float32, 1),
    given(numba.int32, 1),
    given(numba.float32, 2),
    given(numba.int32, 1),
    given(numba.int32, 1),
    INT,
    WORD,
    given(numba.int32, 1),
    *_POLICY,
    written(numba.int32, 1),
    written(numba.float64, 1),
)
def _fill_slate(
    utility: FloatArray,
    rows: RowArray,
    vectors: FloatArray,
    categories: RowArray,
    creators: RowArray,
    length: int,
    seed: np.uint64,
    wanted: RowArray,
    pool_size: int,
    diversity: float,
    exploration: float,
    temperature: float,
    max_per_category: int,
    max_per_creator: int,
    picked: RowArray,
    propensity: Values,
) -> None:
    """One request of `fill_slates`."""
    pool = np.empty(len(utility), np.int64)
    n_pool = fill_pool(utility, rows, max(pool_size, length), pool)
    if n_pool == 0:
        return
    logits, weights, worth = np.empty(n_pool), np.empty(n_pool), np.empty(n_pool)
    fill_worth(utility, pool, temperature, 1.0 - diversity, logits, worth)
    directions = np.empty((n_pool if diversity > 0.0 else 0, vectors.shape[1]), np.float32)
    fill_directions(vectors, rows, pool, directions)
    closest, reference = np.zeros(n_pool), np.inf
    feasible, is_used = np.empty(n_pool, np.bool_), np.zeros(n_pool, np.bool_)
    n_of_category, n_of_creator = np.zeros(n_pool, np.int32), np.zeros(n_pool, np.int32)
    for position in range(length):
        if not _find_feasible(
            is_used, n_of_category, n_of_creator, max_per_category, max_per_creator, feasible
        ):
            return
        reference = _refresh(logits, feasible, reference, weights)
        greedy, total = _greedy(feasible, weights, worth, diversity, closest)
        choice = greedy
        if len(wanted):
            choice = _place_of(pool, feasible, wanted[position])
            if choice == _NONE:
                return
        elif uniform_draw(seed, 2 * position) < exploration:
            choice = _drawn(weights, feasible, total, uniform_draw(seed, 2 * position + 1))
        chance = exploration * weights[choice] / total
        picked[position] = pool[choice]
        propensity[position] = chance + (1.0 - exploration if choice == greedy else 0.0)
        is_used[choice] = True
        if max_per_category > 0:
            _count_code(categories, pool, rows, choice, n_of_category)
        if max_per_creator > 0:
            _count_code(creators, pool, rows, choice, n_of_creator)
        _come_closer(directions, choice, position == 0, closest)


@compiled(
    NOTHING,
    given(numba.float32, 2),
    given(numba.int32, 2),
    given(numba.float32, 2),
    given(numba.int32, 1),
    given(numba.int32, 1),
    given(numba.int32, 1),
    given(numba.uint64, 1),
    given(numba.int32, 2),
    *_POLICY,
    written(numba.int32, 2),
    written(numba.float64, 2),
)
def fill_slates(
    utility: FloatArray,
    rows: RowArray,
    vectors: FloatArray,
    categories: RowArray,
    creators: RowArray,
    lengths: RowArray,
    seeds: NDArray[np.uint64],
    wanted: RowArray,
    pool_size: int,
    diversity: float,
    exploration: float,
    temperature: float,
    max_per_category: int,
    max_per_creator: int,
    picked: RowArray,
    propensity: Values,
) -> None:
    """Fill slates; what is not filled stays as it was.

    Args:
        utility: [B, C].
        rows: where each candidate's facts stand, [B, C]; -1 is padding.
        vectors: [N, D]; read where diversity is above 0.
        categories: [N], like creators; read where there is a cap.
        lengths: of the slates, [B].
        seeds: [B].
        wanted: columns to show instead of the policy's own, [B, K]; [B, 0] for the policy's own.
            From the first one on that the policy cannot show there, a slate is not filled.
        pool_size: see `OrderingSettings`, like the rest of the policy.
        picked: filled, [B, K], a column of the candidates.
        propensity: filled, [B, K].
    """
    for request in range(len(utility)):
        _fill_slate(
            utility[request],
            rows[request],
            vectors,
            categories,
            creators,
            lengths[request],
            seeds[request],
            wanted[request],
            pool_size,
            diversity,
            exploration,
            temperature,
            max_per_category,
            max_per_creator,
            picked[request],
            propensity[request],
        )
