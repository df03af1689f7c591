"""Scored candidates become slates: diversity, caps and exploration, with exact propensities.

NumPy over a whole batch, with a loop over positions only; knows neither models nor the catalogue.
Every draw comes from the request's own seed, so no slate depends on its neighbours in the batch.

B requests, C candidates, P pool, K positions, D embedding width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import best_columns
from recsys.settings import OrderingSettings
from recsys.types import NO_ROW, FloatArray, RowArray

_GOLDEN = np.uint64(0x9E37_79B9_7F4A_7C15)
_MIX_1 = np.uint64(0xBF58_476D_1CE4_E5B9)
_MIX_2 = np.uint64(0x94D0_49BB_1331_11EB)
_DOUBLE_STEP = 2.0**-53


@dataclass(frozen=True, slots=True)
class Slates:
    """The slates of a batch; positions a slate does not fill hold -1 and propensity 0."""

    picked: RowArray  # [B, K], a column of the candidates
    propensity: FloatArray  # [B, K], probability of this item here, given the items above


@dataclass(frozen=True, slots=True)
class _Pool:
    """The candidates that slates are chosen from, best utility first."""

    columns: RowArray  # [B, P], a column of the candidates
    eligible: NDArray[np.bool_]  # [B, P]
    relevance: NDArray[np.float64]  # [B, P], utility scaled to 0..1 over the pool
    logits: NDArray[np.float64]  # [B, P], utility / temperature, at most 0; -inf if not eligible
    directions: FloatArray | None  # [B, P, D], vectors of length 1 or 0
    caps: tuple[tuple[RowArray, int], ...]  # codes [B, P] and how many of one code a slate may hold


def order_slates(
    utility: FloatArray,
    vectors: FloatArray | None,
    categories: RowArray,
    creators: RowArray,
    k: RowArray,
    seeds: NDArray[np.uint64],
    settings: OrderingSettings,
) -> Slates:
    """Choose a slate per request, position by position, from the best-scored candidates.

    With probability 1 - exploration a position takes the item of greatest maximal marginal
    relevance, (1 - diversity) * relevance - diversity * (greatest cosine to the items above)
    (Carbonell & Goldstein, "The use of MMR, diversity-based reranking for reordering documents
    and producing summaries", SIGIR 1998); otherwise it draws from the softmax of utility over
    temperature. Both choose among items that are unused and within the caps; where the caps leave
    none, they are ignored for that position. A candidate of non-finite utility is never shown.

    Args:
        utility: [B, C]; NaN or infinite marks what must not be shown.
        vectors: item vectors [B, C, D], or None for no diversity.
        categories: first category's code, [B, C], -1 for none.
        creators: creator's code, [B, C], -1 for none.
        k: wanted slate length, [B]; a pool smaller than it is widened to it.
        seeds: one random seed per request, [B].
        settings: the policy.
    """
    pool = _pool_of(utility, vectors, categories, creators, k, settings)
    if pool.columns.shape[1] == 0:
        shape = (len(utility), int(k.max(initial=0)))
        return Slates(np.full(shape, NO_ROW, dtype=np.int32), np.zeros(shape, dtype=np.float32))
    return _fill(pool, k, seeds, settings)


def slate_propensities(
    utility: FloatArray,
    vectors: FloatArray | None,
    categories: RowArray,
    creators: RowArray,
    slates: RowArray,
    settings: OrderingSettings,
) -> NDArray[np.float64]:
    """The probability of each item of given slates at its position, given the items above, [B, K].

    What `order_slates` logs of the slates it draws, for slates that somebody else drew. A product
    along a slate is the slate's probability. From the first item on that the policy can not show
    there, a slate's values are 0, as they are where it names no item.

    Args:
        utility: as for `order_slates`, like the arguments not named here.
        slates: a column of the candidates per position, -1 where a slate is shorter, [B, K].
        settings: the policy.
    """
    lengths = (slates >= 0).sum(axis=1).astype(np.int32)
    pool = _pool_of(utility, vectors, categories, creators, lengths, settings)
    propensity = np.zeros(slates.shape, dtype=np.float64)
    if pool.columns.shape[1] == 0:
        return propensity
    filling = _Filling(pool, settings)
    possible = np.ones(len(slates), dtype=np.bool_)
    for position in range(slates.shape[1]):
        is_wanted = pool.columns == slates[:, position][:, None]  # [B, P]
        choice = np.asarray(np.argmax(is_wanted, axis=1))
        feasible, greedy, chances = filling.policy()
        chance = filling.chance(choice, greedy, chances)
        possible &= is_wanted.any(axis=1) & feasible[filling.requests, choice]
        propensity[:, position] = np.where(possible, chance, 0.0)
        filling.take(choice)
    return propensity


def _fill(
    pool: _Pool, k: RowArray, seeds: NDArray[np.uint64], settings: OrderingSettings
) -> Slates:
    """All slates at once, position by position."""
    n_positions = int(k.max(initial=0))
    picked = np.full((len(k), n_positions), NO_ROW, dtype=np.int32)
    propensity = np.zeros(picked.shape, dtype=np.float32)
    draws = _uniform(seeds, 2 * n_positions).reshape(len(k), n_positions, 2)
    filling = _Filling(pool, settings)
    for position in range(n_positions):
        feasible, greedy, chances = filling.policy()
        open_slot = (position < k) & feasible.any(axis=1)
        explores = draws[:, position, 0] < settings.exploration
        choice = np.where(explores, _draw(chances, draws[:, position, 1]), greedy)
        chance = filling.chance(choice, greedy, chances)
        picked[:, position] = np.where(open_slot, pool.columns[filling.requests, choice], NO_ROW)
        propensity[:, position] = np.where(open_slot, chance, 0.0)
        filling.take(choice)
    return Slates(picked, propensity)


class _Filling:
    """Slates on their way: what may come next, and how likely each item is to come."""

    def __init__(self, pool: _Pool, settings: OrderingSettings) -> None:
        self.requests = np.arange(len(pool.columns))
        self._pool = pool
        self._settings = settings
        self._unused = pool.eligible.copy()
        self._crowded = np.zeros(self._unused.shape, dtype=np.bool_)
        self._counts = [np.zeros(self._unused.shape, dtype=np.int32) for _ in pool.caps]
        self._closest = np.zeros(self._unused.shape, dtype=np.float32)
        self._is_first = True

    def policy(self) -> tuple[NDArray[np.bool_], NDArray[np.intp], NDArray[np.float64]]:
        """What is feasible [B, P], the greedy choice [B] and the chances of a draw [B, P]."""
        feasible = self._unused & ~self._crowded
        stuck = ~feasible.any(axis=1)
        feasible[stuck] = self._unused[stuck]
        greedy = _greedy(self._pool, self._closest, feasible, self._settings.diversity)
        return feasible, greedy, _softmax(self._pool.logits, feasible)

    def chance(
        self, choice: NDArray[np.intp], greedy: NDArray[np.intp], chances: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """The probability of a choice: it is drawn, or it is the greedy one, [B]."""
        chance = self._settings.exploration * chances[self.requests, choice]
        return np.asarray(
            chance + np.where(choice == greedy, 1.0 - self._settings.exploration, 0.0)
        )

    def take(self, choice: NDArray[np.intp]) -> None:
        """One more item per slate, by its place in the pool."""
        self._unused[self.requests, choice] = False
        self._closest = _closest(self._pool, self._closest, choice, is_first=self._is_first)
        self._is_first = False
        for (codes, cap), count in zip(self._pool.caps, self._counts, strict=True):
            own = codes[self.requests, choice][:, None]
            count += (codes == own) & (codes >= 0)
            self._crowded |= count >= cap


def _pool_of(
    utility: FloatArray,
    vectors: FloatArray | None,
    categories: RowArray,
    creators: RowArray,
    k: RowArray,
    settings: OrderingSettings,
) -> _Pool:
    """The best candidates of each request, at least as many as it wants items."""
    shown = np.where(np.isfinite(utility), utility, -np.inf).astype(np.float32)
    sizes = np.maximum(settings.pool, k)  # [B]
    columns = best_columns(shown, int(sizes.max(initial=0)))
    scores = np.take_along_axis(shown, columns, axis=1).astype(np.float64)
    eligible = np.isfinite(scores) & (np.arange(columns.shape[1]) < sizes[:, None])
    caps = ((categories, settings.max_per_category), (creators, settings.max_per_creator))
    return _Pool(
        columns=columns,
        eligible=eligible,
        relevance=_scaled(scores, eligible),
        logits=_logits(scores, eligible, settings.temperature),
        directions=_directions(vectors, columns) if settings.diversity > 0.0 else None,
        caps=tuple((np.take_along_axis(code, columns, axis=1), cap) for code, cap in caps if cap),
    )


def _scaled(scores: NDArray[np.float64], eligible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Scores scaled to 0..1 over the eligible ones of each request; all equal become 0."""
    low = np.min(scores, axis=1, where=eligible, initial=np.inf, keepdims=True)
    high = np.max(scores, axis=1, where=eligible, initial=-np.inf, keepdims=True)
    spread = np.where(high > low, high - low, 1.0)
    return np.where(eligible, (np.where(eligible, scores, 0.0) - low) / spread, 0.0)


def _logits(
    scores: NDArray[np.float64], eligible: NDArray[np.bool_], temperature: float
) -> NDArray[np.float64]:
    """Scores over temperature, the greatest of each request at 0."""
    high = np.max(scores, axis=1, where=eligible, initial=-np.inf, keepdims=True)
    offset = np.where(np.isfinite(high), high, 0.0)
    return np.where(eligible, (np.where(eligible, scores, offset) - offset) / temperature, -np.inf)


def _directions(vectors: FloatArray | None, columns: RowArray) -> FloatArray | None:
    """The pool's vectors at length 1; one without direction becomes 0, similar to nothing."""
    if vectors is None:
        return None
    chosen = np.take_along_axis(vectors, columns[:, :, None], axis=1).astype(np.float32)
    norms = np.sqrt(np.einsum("bpd,bpd->bp", chosen, chosen))
    usable = np.isfinite(norms) & (norms > 0.0)
    chosen[~usable] = 0.0
    chosen /= np.where(usable, norms, 1.0)[:, :, None]
    return chosen


def _greedy(
    pool: _Pool, closest: FloatArray, feasible: NDArray[np.bool_], diversity: float
) -> NDArray[np.intp]:
    """The feasible item of greatest maximal marginal relevance, the better scored one of equals."""
    marginal = pool.relevance
    if pool.directions is not None:
        marginal = (1.0 - diversity) * marginal - diversity * closest
    return np.asarray(np.argmax(np.where(feasible, marginal, -np.inf), axis=1))


def _closest(
    pool: _Pool, closest: FloatArray, choice: NDArray[np.intp], *, is_first: bool
) -> FloatArray:
    """Each item's greatest cosine to the items picked so far, after one more was picked."""
    if pool.directions is None:
        return closest
    above = pool.directions[np.arange(len(choice)), choice]  # [B, D]
    cosine: FloatArray = np.matmul(pool.directions, above[:, :, None])[:, :, 0]
    return cosine if is_first else np.maximum(closest, cosine)


def _softmax(logits: NDArray[np.float64], feasible: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Probabilities over the feasible items, [B, P]; all 0 where there are none."""
    masked = np.where(feasible, logits, -np.inf)
    high = masked.max(axis=1, keepdims=True)
    weights = np.exp(masked - np.where(np.isfinite(high), high, 0.0))
    total = weights.sum(axis=1, keepdims=True)
    return np.asarray(weights / np.where(total > 0.0, total, 1.0))


def _draw(chances: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.intp]:
    """One item per request by its chances, by inverting their running sum at `uniform`."""
    running = np.cumsum(chances, axis=1)
    total = running[:, -1]
    target = np.minimum(uniform * total, np.nextafter(total, 0.0))
    return np.asarray(np.argmax(running > target[:, None], axis=1))


def _uniform(seeds: NDArray[np.uint64], n_draws: int) -> NDArray[np.float64]:
    """Draws in [0, 1) from each seed alone, [B, n_draws]: SplitMix64 as a counter.

    Steele, Lea & Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    counters = np.arange(1, n_draws + 1, dtype=np.uint64)
    state = seeds.astype(np.uint64)[:, None] + counters * _GOLDEN
    state = (state ^ (state >> np.uint64(30))) * _MIX_1
    state = (state ^ (state >> np.uint64(27))) * _MIX_2
    state ^= state >> np.uint64(31)
    return np.asarray((state >> np.uint64(11)).astype(np.float64) * _DOUBLE_STEP)
