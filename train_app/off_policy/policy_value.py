"""What a target policy would earn per slate, from logged slates and its ratios on them.

Pure: arrays in, estimates and a verdict out. R slates, K positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from recsys.errors import DataRefused
from recsys.off_policy.ratio_estimate import BOOTSTRAP, Bootstrap, Estimate, estimate_ratios
from recsys.off_policy.reordering import NotInLog, PolicyRatios, reordered
from recsys.off_policy.slate_weighting import cascade_weights, reward_interaction, whole_slate
from recsys.off_policy.weight_support import (
    SupportRules,
    SupportVerdict,
    ThinSupport,
    effective_size,
    judge_support,
    measure_support,
    worst_support,
)
from recsys.settings import OrderingSettings
from train_app.off_policy.logged_slates import LoggedSlates

ON_POLICY, LIFT = "on-policy", "lift"
MAX_UNTOLD = 0.01
"""More slates than this share with equal utilities, and what is left is no fair sample."""


@dataclass(frozen=True)
class PolicyValue:
    """What is known of one target policy."""

    name: str
    estimates: tuple[Estimate, ...] = ()
    lift: Estimate | None = None
    """Relative difference to what the logging policy earned on the same slates."""
    support: SupportVerdict | None = None
    refusal: DataRefused | None = None
    """Why its value is not to be used; its estimates, where there are any, are for inspection."""

    def as_dict(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "name": self.name,
            "is_supported": self.refusal is None,
            "refusal": None if self.refusal is None else str(self.refusal),
            "estimates": [one.as_dict() for one in self.estimates],
            "lift": None if self.lift is None else self.lift.as_dict(),
            "support": None if self.support is None else self.support.as_dict(),
        }


def on_policy_value(slates: LoggedSlates, bootstrap: Bootstrap = BOOTSTRAP) -> Estimate:
    """What the policies that wrote the log earned per slate: the plain mean."""
    totals = slates.rewards.sum(axis=1)
    return estimate_ratios(
        ON_POLICY, totals, np.ones(len(totals)), slates.users, bootstrap=bootstrap
    )


def ordering_value(
    name: str,
    slates: LoggedSlates,
    orderings: Mapping[str, OrderingSettings],
    change: Mapping[str, Any],
    rules: SupportRules | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> PolicyValue:
    """The value of the same scorers with other ordering settings.

    Args:
        orderings: the policy of each bundle in the log.
        change: settings of `ordering` that the target has otherwise than each bundle.
    """
    ratios = np.ones(slates.rewards.shape)
    told = np.ones(len(slates), np.bool_)
    try:
        for number, bundle_id in enumerate(slates.bundle_ids):
            own = slates.bundles == number
            logging = orderings[bundle_id]
            target = logging.model_copy(update=dict(change))
            found = reordered(slates.of(own).records, logging, target)
            ratios[own], told[own] = found.ratios, found.is_told
    except NotInLog as error:
        return PolicyValue(name, refusal=error)
    return value_of_ratios(name, slates, PolicyRatios(ratios, told), rules, bootstrap)


def value_of_ratios(
    name: str,
    slates: LoggedSlates,
    found: PolicyRatios,
    rules: SupportRules | None = None,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> PolicyValue:
    """The value of a policy by its ratios on logged slates, and whether they support it.

    Slates that do not tell the target's choice are left out; more than a few of them refuse.
    """
    untold = 1.0 - float(found.is_told.mean()) if len(slates) else 0.0
    if untold > MAX_UNTOLD:
        return PolicyValue(
            name,
            refusal=NotInLog(
                f"what {name} would do cannot be told for {untold:.1%} of {len(slates):,} slates,"
                f" at most {MAX_UNTOLD:.0%} expected: utilities are equal, or the best item not"
                " shown was not logged; log at least one (serve.log_unshown)"
            ),
        )
    kept, ratios = slates.of(found.is_told), found.ratios[found.is_told]
    estimates = (
        *reward_interaction(kept.rewards, ratios, kept.users, bootstrap=bootstrap),
        *whole_slate(kept.rewards, ratios, kept.users, bootstrap=bootstrap),
    )
    verdict = _judge(kept, ratios, rules)
    return PolicyValue(
        name, estimates, _lift(kept, ratios, bootstrap), verdict, _refusal(name, verdict)
    )


def _judge(slates: LoggedSlates, ratios: np.ndarray, rules: SupportRules | None) -> SupportVerdict:
    """By the position with the thinnest support; rewards count wherever they came."""
    weights = cascade_weights(ratios)
    if not weights.size:
        nothing = np.zeros(0)
        return judge_support(measure_support(nothing, nothing, nothing), rules)
    by_position = [
        measure_support(weights[:, position], slates.rewards[:, position], slates.users)
        for position in range(weights.shape[1])
    ]
    earned = np.abs((weights * slates.rewards).sum(axis=1))
    worst = replace(worst_support(by_position), rewarded_ess=effective_size(earned))
    return judge_support(worst, rules)


def _lift(slates: LoggedSlates, ratios: np.ndarray, bootstrap: Bootstrap) -> Estimate | None:
    """Self-normalised value of the target less that of the log, as a share of the latter.

    What the log earned is taken as given where it divides: its error is small beside the target's,
    and the difference, in which most of it cancels, is resampled slate by slate.
    """
    earned = float(slates.rewards.sum(axis=1).mean()) if len(slates) else 0.0
    if not earned > 0.0:
        return None
    weights = cascade_weights(ratios)
    tops = np.concatenate([weights * slates.rewards, -slates.rewards], axis=1) / earned
    bottoms = np.concatenate([weights, np.ones_like(weights)], axis=1)
    return estimate_ratios(LIFT, tops, bottoms, slates.users, bootstrap=bootstrap)


def _refusal(name: str, verdict: SupportVerdict) -> ThinSupport | None:
    try:
        verdict.require(name)
    except ThinSupport as error:
        return error
    return None
