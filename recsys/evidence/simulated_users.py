"""Sums over made-up users at every look of many rollouts, without keeping a user per rollout.

Users are drawn once, in a pool per arrival; a rollout's arms are random blocks of it, whose sums
are differences of running sums. Given the pool, arms are independent and alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from recsys.evidence.ratio_moments import RatioMoments

Values: TypeAlias = NDArray[np.float64]
SHOWN = 10
"""Items of a slate."""
ROLLOUTS_PER_POOL = 100
_POOL_USERS = 5_000
"""Per arrival; blocks are a fiftieth of it at most, so that a pool's chance sums stay small."""
_BLOCK_USERS = 100


@dataclass(frozen=True, slots=True)
class SimulatedRollout:
    """How the users of both arms behave, and what the canary changes."""

    n_users: int = 1_000
    """Per arm at the last look; they arrive evenly over the looks and stay."""
    n_looks: int = 25
    slates_per_user: float = 4.0
    """Mean per user who was there from the first look on."""
    activity: float = 0.0
    """Sigma of the lognormal that users' rates of slates differ by."""
    ctr: float = 0.075
    """Clicks per item shown."""
    spread: float = 0.5
    """Sigma of the lognormal that users' inclinations differ by."""
    drift: float = 0.0
    """Relative change of everybody's inclination from the first to the last look."""
    failures: float = 0.001
    """Rate of errors, of degraded and of shed requests, and what coverage lacks."""
    conversion: float = 0.004
    """Per slate; its value is lognormal with twice the spread."""
    effect: float = 0.0
    """Relative change of the canary's clicks and conversions."""
    added_failures: float = 0.0
    """The canary's further rate of errors."""
    slower: float = 1.0
    """Factor of the canary's latencies, to a tenth."""


@dataclass(frozen=True)
class ArmSums:
    """One arm of each rollout at each look."""

    moments: Mapping[str, RatioMoments]
    """By metric, [R, L]."""
    n_active: Mapping[str, Values]
    """Users with a numerator, by metric, [R, L]."""
    slates: Values
    """[R, L]."""


PAIRS = ("ctr", "conversion", "value_per_user")
"""The metrics of users that are drawn."""


def arrivals(world: SimulatedRollout) -> NDArray[np.int64]:
    """New users of each look, [L]."""
    ends = np.linspace(0, world.n_users, world.n_looks + 1).round().astype(np.int64)
    return np.diff(ends)


def simulated_arms(
    world: SimulatedRollout,
    n_rollouts: int,
    rng: np.random.Generator,
    names: Sequence[str] = PAIRS,
) -> Iterator[tuple[ArmSums, ArmSums]]:
    """Baseline and canary of so many rollouts, as many at once as share a pool."""
    for first in range(0, n_rollouts, ROLLOUTS_PER_POOL):
        yield _arms(world, min(ROLLOUTS_PER_POOL, n_rollouts - first), rng, names)


def _arms(
    world: SimulatedRollout, n: int, rng: np.random.Generator, names: Sequence[str]
) -> tuple[ArmSums, ArmSums]:
    """Both arms' sums, each arrival's added from its look on."""
    new_users = arrivals(world)
    # By arm and metric: numerators, denominators, squares, products, and users with a numerator.
    sums = np.zeros((2, len(names), 6, n, world.n_looks))
    slates = np.zeros((2, n, world.n_looks))
    for look, count in enumerate(new_users):
        if count == 0:
            continue
        pool = _Pool(world, look, rng, is_changed=world.effect != 0)
        for arm in range(2):
            blocks = _Blocks(int(count), n, rng)
            slates[arm, :, look:] += blocks.sums(pool.slates)
            for place, name in enumerate(names):
                top, bottom = pool.pair(name, is_canary=arm == 1)
                columns = (top, bottom, top * top, bottom * bottom, top * bottom, top > 0)
                for which, column in enumerate(columns):
                    sums[arm, place, which, :, look:] += blocks.sums(column)
    n_users = np.broadcast_to(np.cumsum(new_users).astype(np.float64), (n, world.n_looks))
    first, second = (
        ArmSums(
            {name: RatioMoments(n_users, *sums[arm, k, :5]) for k, name in enumerate(names)},
            {name: sums[arm, k, 5] for k, name in enumerate(names)},
            slates[arm],
        )
        for arm in range(2)
    )
    return first, second


class _Pool:
    """Users who arrive at one look: their sums at that look and at all further ones, [P, K]."""

    def __init__(
        self, world: SimulatedRollout, look: int, rng: np.random.Generator, *, is_changed: bool
    ) -> None:
        looks = np.arange(look, world.n_looks)
        size = (_POOL_USERS, len(looks))
        own, active = (
            rng.lognormal(-(sigma**2) / 2, sigma, (_POOL_USERS, 1))
            for sigma in (world.spread, world.activity)
        )
        mood = 1 + world.drift * looks / max(world.n_looks - 1, 1)
        new = rng.poisson(
            np.broadcast_to(active * world.slates_per_user / world.n_looks, size), size
        )
        inclined = own * mood * new
        clicks = rng.poisson(world.ctr * SHOWN * inclined)
        sales = rng.poisson(world.conversion * inclined)
        worth = rng.lognormal(-2 * world.spread**2, 2 * world.spread, size)
        self.slates = _summed(new)
        self._one = np.ones(size)
        self._tops = [{}, {}] if is_changed else [{}]
        for arm, tops in enumerate(self._tops):
            if arm == 1:
                clicks = _changed(clicks, world.effect, world.ctr * SHOWN * inclined, rng)
                sales = _changed(sales, world.effect, world.conversion * inclined, rng)
            tops |= {
                "ctr": _summed(clicks),
                "conversion": _summed(sales),
                "value_per_user": _summed(sales * worth),
            }

    _tops: list[dict[str, Values]]

    def pair(self, name: str, *, is_canary: bool) -> tuple[Values, Values]:
        """Numerator and denominator of a metric."""
        bottoms = {"ctr": SHOWN * self.slates, "conversion": self.slates}
        top = self._tops[-1 if is_canary else 0][name]
        return top, bottoms.get(name, self._one)


class _Blocks:
    """Which of a pool's users each rollout's arm got: blocks at random places, [R, B]."""

    def __init__(self, n_users: int, n_rollouts: int, rng: np.random.Generator) -> None:
        n_blocks = -(-n_users // _BLOCK_USERS)
        self._sizes = np.diff(np.linspace(0, n_users, n_blocks + 1).round().astype(np.int64))
        self._starts = rng.integers(0, _POOL_USERS, (n_rollouts, n_blocks))

    def sums(self, column: NDArray[np.generic]) -> Values:
        """The column, [P, K], summed over each rollout's users, [R, K]; the pool is a ring."""
        around = np.concatenate([column, column[:_BLOCK_USERS]])
        running = np.zeros((len(around) + 1, column.shape[1]))
        np.cumsum(around, axis=0, dtype=np.float64, out=running[1:])
        return np.asarray(
            (running[self._starts + self._sizes] - running[self._starts]).sum(1), np.float64
        )


def _changed(
    counts: NDArray[np.int64], effect: float, means: Values, rng: np.random.Generator
) -> NDArray[np.int64]:
    """The same users' counts under the canary: thinned, or added to; a Poisson's stays one."""
    if effect < 0:
        return np.asarray(rng.binomial(counts, 1 + effect), np.int64)
    return np.asarray(counts + rng.poisson(effect * means), np.int64)


def _summed(parts: NDArray[np.generic]) -> Values:
    """Each user's sum up to each look, [P, K]."""
    return np.asarray(np.cumsum(parts, axis=1, dtype=np.float64))
