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
from recsys.seeded_draws import uniform_draws
from recsys.settings import OrderingSettings
from recsys.types import NO_ROW, FloatArray, RowArray


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
        turn = filling.turn()
        possible &= is_wanted.any(axis=1) & turn.feasible[filling.requests, choice]
        chance = _chance(filling.share(turn, choice), choice == turn.greedy, settings)
        propensity[:, position] = np.where(possible, chance, 0.0)
        filling.take(choice)
    return propensity


def _fill(
    pool: _Pool, k: RowArray, seeds: NDArray[np.uint64], settings: OrderingSettings
) -> Slates:
    """All slates at once, position by position."""
    n_positions = int(k.max(initial=0))
    shape = (len(k), n_positions)
    draws = uniform_draws(seeds, 2 * n_positions).reshape(*shape, 2)
    explores = draws[:, :, 0] < settings.exploration
    chosen = np.zeros(shape, dtype=np.intp)
    share, is_greedy = np.zeros(shape, dtype=np.float64), np.ones(shape, dtype=np.bool_)
    is_filled = np.arange(n_positions) < k[:, None]
    filling = _Filling(pool, settings)
    for position in range(n_positions):
        turn = filling.turn()
        choice = turn.greedy
        explorers = explores[:, position].nonzero()[0]
        if len(explorers):
            choice = choice.copy()
            choice[explorers] = _draw(turn, explorers, draws[explorers, position, 1])
            is_greedy[:, position] = choice == turn.greedy
        chosen[:, position] = choice
        share[:, position] = filling.share(turn, choice)
        is_filled[:, position] &= turn.is_open
        filling.take(choice)
    columns = np.take_along_axis(pool.columns, chosen, axis=1)
    chance = _chance(share, is_greedy, settings)
    return Slates(
        np.where(is_filled, columns, NO_ROW).astype(np.int32),
        np.where(is_filled, chance, 0.0).astype(np.float32),
    )


def _chance(
    share: NDArray[np.float64], is_greedy: NDArray[np.bool_], settings: OrderingSettings
) -> NDArray[np.float64]:
    """The probability of a choice: it is drawn, which is its share, or it is the greedy one."""
    greedy = np.where(is_greedy, 1.0 - settings.exploration, 0.0)
    return np.asarray(settings.exploration * share + greedy)


@dataclass(frozen=True, slots=True)
class _Turn:
    """What the policy says of one position of every slate."""

    feasible: NDArray[np.bool_]  # [B, P]
    is_open: NDArray[np.bool_]  # [B], whether anything is feasible
    greedy: NDArray[np.intp]  # [B], of greatest marginal relevance, the better scored of equals
    weights: NDArray[np.float64]  # [B, P], of a draw; 0 for what is not feasible
    total: NDArray[np.float64]  # [B, 1], sum of the weights; 1 where they are all 0


class _Filling:
    """Slates on their way: what may come next, and how likely each item is to come.

    Without caps the masked logits and relevances change by one entry a turn and are kept.
    """

    def __init__(self, pool: _Pool, settings: OrderingSettings) -> None:
        shape = pool.columns.shape
        self.requests = np.arange(shape[0])
        self._starts = self.requests * shape[1]
        self._pool = pool
        self._diversity = settings.diversity
        worth = pool.relevance
        if pool.directions is not None:
            worth = (1.0 - settings.diversity) * worth
        self._unused = pool.eligible.copy()
        self._logits = pool.logits.copy()
        self._worth = np.where(pool.eligible, worth, -np.inf)
        self._within_caps = np.ones(shape, dtype=np.bool_)
        self._counts = [np.zeros(shape, dtype=np.int32) for _ in pool.caps]
        self._closest: FloatArray | None = None
        """Each item's greatest cosine to the items above, [B, P]; None above the first."""

    def turn(self) -> _Turn:
        """What may be shown next, and the policy's say on it."""
        feasible, logits, worth = self._unused, self._logits, self._worth
        if self._pool.caps:
            feasible = self._unused & self._within_caps
            stuck = ~feasible.any(axis=1)
            feasible[stuck] = self._unused[stuck]
            logits = np.where(feasible, logits, -np.inf)
            worth = np.where(feasible, worth, -np.inf)
        high = np.maximum.reduce(logits, axis=1, keepdims=True)
        if is_usual := bool((high > -np.inf).all()):
            weights = np.exp(logits - high)
        else:
            weights = np.exp(logits - np.where(np.isfinite(high), high, 0.0))
        total = np.add.reduce(weights, axis=1, keepdims=True)
        if not is_usual:
            total = np.where(total > 0.0, total, 1.0)
        if self._closest is not None:
            worth = worth - self._diversity * self._closest
        is_open = np.logical_or.reduce(feasible, axis=1)
        return _Turn(feasible, is_open, worth.argmax(axis=1), weights, total)

    def share(self, turn: _Turn, choice: NDArray[np.intp]) -> NDArray[np.float64]:
        """The chance that a draw takes each choice, [B]."""
        weight = turn.weights.take(self._starts + choice)
        return np.asarray(weight / turn.total[:, 0])

    def take(self, choice: NDArray[np.intp]) -> None:
        """One more item per slate, by its place in the pool."""
        places = self._starts + choice
        self._unused.ravel()[places] = False
        self._logits.ravel()[places] = -np.inf
        self._worth.ravel()[places] = -np.inf
        directions = self._pool.directions
        if directions is not None:
            above = directions.reshape(-1, directions.shape[2]).take(places, axis=0)  # [B, D]
            cosine: FloatArray = np.matmul(directions, above[:, :, None])[:, :, 0]
            if self._closest is None:
                self._closest = cosine
            else:
                np.maximum(self._closest, cosine, out=self._closest)
        for (codes, cap), count in zip(self._pool.caps, self._counts, strict=True):
            own = codes[self.requests, choice][:, None]
            count += (codes == own) & (codes >= 0)
            self._within_caps &= count < cap


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


def _draw(
    turn: _Turn, requests: NDArray[np.intp], uniform: NDArray[np.float64]
) -> NDArray[np.intp]:
    """One item for each of some requests by its weight: the running sum inverted at `uniform`."""
    running = np.cumsum(turn.weights[requests] / turn.total[requests], axis=1)
    total = running[:, -1]
    target = np.minimum(uniform * total, np.nextafter(total, 0.0))
    return np.asarray(np.argmax(running > target[:, None], axis=1))
