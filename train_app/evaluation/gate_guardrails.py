"""Guardrails of the gate: what a bundle may not pay for its metric with. Pure.

Each compares the page of the new bundle with the stable one's on the same queries, by a bound
that the settings declared before the run. Legend: Q queries, K page length, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.learning_settings import GateSettings
from recsys.types import RowArray
from train_app.evaluation.breakdown.scorer_calibration import Reliability
from train_app.evaluation.gate_rules import (
    Rule,
    at_least,
    at_most,
    interval_over_users,
    unless_shown,
)
from train_app.evaluation.metrics import Values, coverage

MIN_ANSWERED = 0.99
"""Share of the requests that has to get a page."""


@dataclass(frozen=True)
class Calibration:
    """Predicted probabilities of acts on shown items and what happened, [n] each."""

    probabilities: Values
    outcomes: NDArray[np.bool_]


@dataclass(frozen=True)
class PageFacts:
    """What the guardrails look at of one bundle."""

    lists: RowArray  # [Q, K] item rows of the page, -1 padded
    calibration: Calibration | None = None
    """`None` where the bundle's probabilities were not asked."""
    cost_ms: float | None = None
    """Processor time of scoring one request."""


@dataclass(frozen=True)
class Guarded:
    """Both bundles' pages on the same queries, and what is known of the items."""

    new: PageFacts
    stable: PageFacts | None
    users: NDArray[np.int64]  # [Q]
    tokens: RowArray
    """[N, T] codes of each item's categories and creator, -1 padded."""
    is_new_item: NDArray[np.bool_]  # [N]
    has_unseen: NDArray[np.bool_] | None = None
    """[Q] whether there is an item the user has not seen; `None` is everybody."""


def answered(guarded: Guarded) -> Rule:
    """A bundle that makes no page is refused, even where popularity's figure is 0 too.

    Requests of users who have seen the whole catalogue count for nothing.
    """
    has_page = np.asarray((guarded.new.lists >= 0).any(1))
    if guarded.has_unseen is not None and guarded.has_unseen.any():
        has_page = has_page[guarded.has_unseen]
    return at_least(
        "share of requests with a page",
        float(has_page.mean()),
        MIN_ANSWERED,
        "see that the scorer's utilities are finite (lower train.scorer.learning_rate) and that "
        "the bundle knows the items of the lake",
    )


def guardrails(guarded: Guarded, gate: GateSettings, seed: int) -> list[Rule]:
    """Every guardrail that is on and can be measured.

    Args:
        seed: of the intervals.
    """
    rules = [_calibration(guarded.new, gate)]
    if guarded.stable is not None:
        rules += [
            _coverage(guarded, guarded.stable, gate),
            _diversity(guarded, guarded.stable, gate, seed),
            _new_items(guarded, guarded.stable, gate, seed),
            _churn(guarded, guarded.stable, gate, seed),
            _cost(guarded.new, guarded.stable, gate),
        ]
    return [rule for rule in rules if rule is not None]


def page_diversity(lists: RowArray, tokens: RowArray) -> Values:
    """Mean Jaccard distance of the tokens of two items of a page, [Q]; NaN below two items.

    Args:
        lists: [Q, K].
        tokens: [N, T] distinct codes of each item, -1 padded.
    """
    out = np.full(len(lists), np.nan)
    for start in range(0, len(lists), 256):
        rows = lists[start : start + 256]
        own = np.where(rows[..., None] >= 0, tokens[np.maximum(rows, 0)], -1)  # [q, K, T]
        sizes = (own >= 0).sum(-1)
        same = (own[:, :, None, :, None] == own[:, None, :, None, :]) & (
            own[:, :, None, :, None] >= 0
        )
        shared = same.sum((-1, -2))  # [q, K, K]
        union = sizes[:, :, None] + sizes[:, None, :] - shared
        distance = 1.0 - np.divide(shared, union, out=np.zeros(shared.shape), where=union > 0)
        pair = (
            (sizes[:, :, None] > 0) & (sizes[:, None, :] > 0) & ~np.eye(rows.shape[1], dtype=bool)
        )
        n_pairs = pair.sum((1, 2))
        total = (distance * pair).sum((1, 2))
        has = n_pairs > 0
        out[start : start + 256][has] = total[has] / n_pairs[has]
    return out


def changed_share(lists: RowArray, others: RowArray) -> Values:
    """The share of each page's items that are not on the other page, [Q]; 0 for an empty page."""
    present = lists >= 0
    kept = ((lists[:, :, None] == others[:, None, :]).any(-1) & present).sum(1)
    n = present.sum(1)
    return np.where(n > 0, 1.0 - kept / np.maximum(n, 1), 0.0)


def _coverage(guarded: Guarded, stable: PageFacts, gate: GateSettings) -> Rule | None:
    bound, n_items = gate.min_coverage_ratio, len(guarded.is_new_item)
    theirs = coverage(stable.lists, n_items)
    if not bound or not theirs:
        return None
    return at_least(
        "catalogue coverage of the page, times the stable bundle's",
        coverage(guarded.new.lists, n_items) / theirs,
        bound,
        "train longer, raise train.towers.n_negatives, or lower gate.min_coverage_ratio",
    )


def _diversity(guarded: Guarded, stable: PageFacts, gate: GateSettings, seed: int) -> Rule | None:
    return _share_of_stable(
        "diversity within the page, times the stable bundle's",
        page_diversity(guarded.new.lists, guarded.tokens),
        page_diversity(stable.lists, guarded.tokens),
        gate.min_diversity_ratio,
        guarded.users,
        "train longer, or lower gate.min_diversity_ratio",
        seed,
    )


def _new_items(guarded: Guarded, stable: PageFacts, gate: GateSettings, seed: int) -> Rule | None:
    def share(lists: RowArray) -> Values:
        shown = np.where(lists >= 0, guarded.is_new_item[np.maximum(lists, 0)], False)
        return np.asarray(shown.mean(1), np.float64)

    return _share_of_stable(
        "share of new items on the page, times the stable bundle's",
        share(guarded.new.lists),
        share(stable.lists),
        gate.min_new_item_ratio,
        guarded.users,
        "raise train.towers.id_dropout, import the items' content, or lower "
        "gate.min_new_item_ratio",
        seed,
    )


def _churn(guarded: Guarded, stable: PageFacts, gate: GateSettings, seed: int) -> Rule | None:
    bound = gate.max_churn
    if not bound or not len(guarded.users):
        return None
    changed = changed_share(guarded.new.lists, stable.lists)
    rule = at_most(
        "share of the page that was not on the stable bundle's",
        float(changed.mean()),
        bound,
        "train with --warm-start, or raise gate.max_churn",
    )
    return unless_shown(rule, interval_over_users(changed - bound, guarded.users, seed))


def _calibration(new: PageFacts, gate: GateSettings) -> Rule | None:
    bound = gate.max_calibration_error
    if not bound or new.calibration is None or not len(new.calibration.probabilities):
        return None
    return at_most(
        "calibration error of the page's probabilities",
        Reliability.of(new.calibration.probabilities, new.calibration.outcomes).ece,
        bound,
        "import more history for the scorer, lower train.scorer.learning_rate, or raise "
        "gate.max_calibration_error",
    )


def _cost(new: PageFacts, stable: PageFacts, gate: GateSettings) -> Rule | None:
    bound = gate.max_cost_ratio
    if not bound or new.cost_ms is None or not stable.cost_ms:
        return None
    return at_most(
        "processor time of scoring a request, times the stable bundle's",
        new.cost_ms / stable.cost_ms,
        bound,
        "make train.scorer.hidden_dims smaller, or raise gate.max_cost_ratio",
        f"{new.cost_ms:.2f} ms against {stable.cost_ms:.2f} ms",
    )


def _share_of_stable(
    name: str,
    ours: Values,
    theirs: Values,
    bound: float | None,
    users: NDArray[np.int64],
    remedy: str,
    seed: int,
) -> Rule | None:
    """A rule on the ratio of two means over the queries that both have a figure for."""
    measured = np.isfinite(ours) & np.isfinite(theirs)
    if not bound or not measured.any() or not theirs[measured].mean() > 0:
        return None
    ours, theirs = ours[measured], theirs[measured]
    rule = at_least(name, float(ours.mean() / theirs.mean()), bound, remedy)
    return unless_shown(rule, interval_over_users(bound * theirs - ours, users[measured], seed))
