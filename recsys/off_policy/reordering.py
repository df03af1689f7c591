"""What another ordering policy would have done with logged slates, as far as the log can tell.

A slate's propensities give away both which items were the greedy choice and how likely a draw was,
so that a policy which differs in exploration, or orders by score alone, is evaluated exactly. The
rest would take the utilities of the whole pool, which no log holds. Knows arrays and settings.

R slates, K positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.errors import DataRefused
from recsys.off_policy.ratio_estimate import Values
from recsys.settings import OrderingSettings

Mask = NDArray[np.bool_]
_ROUNDING = 1e-5
"""Propensities are logged in single precision."""


class NotInLog(DataRefused):
    """What the target policy would have done with a logged slate cannot be told from the log."""


@dataclass(frozen=True)
class SlateRecords:
    """Served slates as they were logged; padding has position >= length."""

    propensities: Values  # [R, K], of each item given the items above
    scores: Values  # [R, K], utility of each item
    best_unshown: Values  # [R], utility of the best item that was not shown; NaN where unknown
    lengths: NDArray[np.int64]  # [R]

    def is_shown(self) -> Mask:
        """Which cells are no padding, [R, K]."""
        return np.asarray(np.arange(self.scores.shape[1]) < self.lengths[:, None])


@dataclass(frozen=True)
class PolicyRatios:
    """Target over logging probability of each item given the items above."""

    ratios: Values  # [R, K], 1 for padding
    is_told: Mask  # [R], false where equal utilities hide which item the target prefers


def reordered(
    records: SlateRecords, logging: OrderingSettings, target: OrderingSettings
) -> PolicyRatios:
    """The ratios of a target policy on slates of the logging policy.

    Raises:
        NotInLog: the log does not hold what the target's choices depend on.
    """
    shown = records.is_shown()
    everything = np.ones(len(shown), np.bool_)
    if _decides_alike(logging, target):
        return PolicyRatios(np.ones(shown.shape), everything)
    _refuse_untold(logging, target)
    by_score, is_told = _best_by_score(records, shown)
    greedy, greedy_told = _greedy_of_log(records, logging, by_score, is_told)
    wants_score = target.diversity <= 0.0 and logging.diversity > 0.0
    target_greedy = by_score if wants_score else greedy
    told = everything
    if target.exploration < 1.0 and wants_score:
        told = told & is_told
    if logging.exploration < 1.0 or (target.exploration < 1.0 and not wants_score):
        told = told & greedy_told
    chance = np.where(target_greedy, 1.0 - target.exploration, 0.0)
    if target.exploration > 0.0:
        drawn = records.propensities - np.where(greedy, 1.0 - logging.exploration, 0.0)
        chance = chance + target.exploration * np.maximum(drawn, 0.0) / logging.exploration
    safe = np.where(shown, records.propensities, 1.0)
    return PolicyRatios(np.where(shown, chance / safe, 1.0), told)


def _decides_alike(logging: OrderingSettings, target: OrderingSettings) -> bool:
    """Whether the two give every slate the same probability."""
    if logging == target:
        return True
    blind = {"temperature": 1.0}  # nothing is drawn, so its temperature says nothing
    draws = logging.exploration > 0.0 or target.exploration > 0.0
    return not draws and logging.model_copy(update=blind) == target.model_copy(update=blind)


def _refuse_untold(logging: OrderingSettings, target: OrderingSettings) -> None:
    """Name the first setting whose effect the log does not hold.

    Raises:
        NotInLog: there is one.
    """
    caps = ("max_per_category", "max_per_creator")
    has_caps = any(getattr(policy, cap) for policy in (logging, target) for cap in caps)
    draws = target.exploration > 0.0
    by_score = target.diversity <= 0.0
    for cap in caps:
        if getattr(logging, cap) != getattr(target, cap):
            _refuse(cap, logging, target, "which items a cap held back is not logged")
    if logging.diversity != target.diversity and not by_score:
        _refuse("diversity", logging, target, "similarities within the pool are not logged")
    if logging.diversity != target.diversity and has_caps:
        _refuse("diversity", logging, target, "with caps the best item left may not be allowed")
    if logging.pool != target.pool and (draws or not by_score or has_caps):
        _refuse("pool", logging, target, "scores of the whole pool are not logged")
    if draws and logging.temperature != target.temperature:
        _refuse("temperature", logging, target, "scores of the whole pool are not logged")
    if draws and logging.exploration <= 0.0:
        _refuse("exploration", logging, target, "a log without exploration has none of its draws")


def _refuse(name: str, logging: OrderingSettings, target: OrderingSettings, reason: str) -> None:
    raise NotInLog(
        f"ordering.{name} {getattr(target, name):g} cannot be evaluated on slates of"
        f" {getattr(logging, name):g}: {reason}; expected a target that differs in"
        " ordering.exploration, or has ordering.diversity 0; compare the two in a canary"
    )


def _best_by_score(records: SlateRecords, shown: Mask) -> tuple[Mask, Mask]:
    """Which items had the highest utility of all that were left, and which slates tell, [R]."""
    scores = np.where(shown, records.scores, -np.inf)
    below = np.maximum.accumulate(scores[:, ::-1], axis=1)[:, ::-1]
    after = np.concatenate([below[:, 1:], np.full((len(scores), 1), -np.inf)], axis=1)
    rest = np.maximum(after, records.best_unshown[:, None])  # NaN where that is unknown
    is_best = shown & (scores > rest)
    is_open = shown & ((scores >= rest) & ~is_best | np.isnan(rest))
    return is_best, ~is_open.any(axis=1)


def _greedy_of_log(
    records: SlateRecords, logging: OrderingSettings, by_score: Mask, is_told: Mask
) -> tuple[Mask, Mask]:
    """Which items were the logging policy's greedy choice, and which slates tell, [R]."""
    if logging.exploration <= 0.5:
        # A mere draw is at most half as likely as not drawing at all.
        greedy = records.propensities >= 1.0 - logging.exploration - _ROUNDING
        return greedy, np.ones(len(greedy), np.bool_)
    if logging.diversity <= 0.0 and not (logging.max_per_category or logging.max_per_creator):
        return by_score, is_told
    return np.zeros_like(by_score), np.zeros(len(by_score), np.bool_)
