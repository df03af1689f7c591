"""Off-policy estimators beside the truth: two real policies in both directions, and a known world.

`python -m bench.off_policy_table --first FOLDER --second FOLDER [--json FILE]`; each folder holds
the log of one policy on the same items. Prints a table per direction and the synthetic one.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.bandit_folder import BanditRounds, Values, choice_frequencies, read_rounds
from recsys.errors import RecsysError
from recsys.off_policy.cross_fitting import cross_fit
from recsys.off_policy.doubly_robust import (
    AllChoices,
    ModelledRounds,
    direct_method,
    doubly_robust,
    self_normalised_doubly_robust,
    switch_doubly_robust,
)
from recsys.off_policy.importance import (
    clipped,
    importance_weights,
    inverse_propensity,
    self_normalised,
)
from recsys.off_policy.ratio_estimate import (
    BOOTSTRAP,
    Bootstrap,
    Clusters,
    Estimate,
    estimate_ratios,
)
from recsys.off_policy.weight_support import SupportVerdict, judge_support, measure_support
from recsys.simulated.logistic_bandit import BanditLog, BanditWorld

SYNTHETIC_ROUNDS, SYNTHETIC_CHOICES, SYNTHETIC_FEATURES = 10_000, 30, 5
SYNTHETIC_RUNS = 20
LOGGING_SHARPNESS, TARGET_SHARPNESS, LOGGING_FLOOR = 2.0, 6.0, 0.1


def all_estimates(
    rewards: Values,
    choices: AllChoices,
    weights: Values,
    chosen: Clusters,
    bootstrap: Bootstrap = BOOTSTRAP,
) -> list[Estimate]:
    """Every estimator on a log without user ids: every round is on its own."""
    clusters = np.arange(len(rewards))
    modelled = ModelledRounds(
        rewards=rewards,
        weights=weights,
        expected=choices.expected[np.arange(len(rewards)), chosen],
        expected_target=choices.expected_target(),
        clusters=clusters,
    )
    return [
        inverse_propensity(rewards, weights, clusters, bootstrap=bootstrap),
        self_normalised(rewards, weights, clusters, bootstrap=bootstrap),
        clipped(rewards, weights, clusters, bootstrap=bootstrap),
        direct_method(modelled, bootstrap=bootstrap),
        doubly_robust(modelled, bootstrap=bootstrap),
        self_normalised_doubly_robust(modelled, bootstrap=bootstrap),
        switch_doubly_robust(modelled, choices, bootstrap=bootstrap),
    ]


def evaluate_policy(
    log: BanditRounds, logging: Values, target: Values, bootstrap: Bootstrap = BOOTSTRAP
) -> tuple[list[Estimate], SupportVerdict]:
    """What a target policy would earn, from another's log.

    Args:
        logging: the log's policy by position, [K, A]; what was shown has its own propensity.
        target: the target policy by position, [K, A].
    """
    rounds = np.arange(len(log.chosen))
    target_all, logging_all = target[log.positions], logging[log.positions]
    weights = importance_weights(target_all[rounds, log.chosen], log.propensities)
    fit = cross_fit(log.reward_features(), log.chosen, log.rewards, rounds)
    choices = AllChoices(target_all, target_all / logging_all, fit.expected)
    support = measure_support(weights, log.rewards, rounds, logging=logging_all, target=target_all)
    found = all_estimates(log.rewards, choices, weights, log.chosen, bootstrap)
    return found, judge_support(support)


def both_directions(
    first: BanditRounds, second: BanditRounds, bootstrap: Bootstrap = BOOTSTRAP
) -> list[dict[str, Any]]:
    """Each policy from the other's log, beside its own."""
    policies = [_policy(first), _policy(second)]
    logs = [first, second]
    found = []
    for source, target in ((0, 1), (1, 0)):
        estimates, verdict = evaluate_policy(
            logs[source], policies[source], policies[target], bootstrap
        )
        own = logs[target].rewards
        truth = estimate_ratios("on-policy", own, np.ones(len(own)), np.arange(len(own)))
        found.append(
            {
                "from": ("first", "second")[source],
                "to": ("first", "second")[target],
                "truth": truth.as_dict(),
                "support": verdict.as_dict(),
                "estimates": [
                    one.as_dict() | {"relative_error": abs(one.value - truth.value) / truth.value}
                    for one in estimates
                ],
            }
        )
    return found


def synthetic_errors(n_runs: int, n_rounds: int) -> list[dict[str, Any]]:
    """Root mean squared relative error of each estimator, with a right and with a wrong model."""
    rows = []
    for is_right in (True, False):
        errors: dict[str, list[float]] = {}
        for run in range(n_runs):
            rng = np.random.default_rng([7, run])
            world = BanditWorld.draw(rng, SYNTHETIC_CHOICES, SYNTHETIC_FEATURES)
            many = world.contexts(rng, 100_000)
            truth = (world.policy(many, TARGET_SHARPNESS) * world.means(many)).sum(axis=1).mean()
            log = BanditLog.draw(world, rng, n_rounds, LOGGING_SHARPNESS, LOGGING_FLOOR)
            for one in _synthetic_estimates(world, log, is_right):
                errors.setdefault(one.name, []).append(one.value / truth - 1.0)
        rows.append(
            {
                "model": "right" if is_right else "wrong",
                "bias": {name: float(np.mean(found)) for name, found in errors.items()},
                "error": {
                    name: float(np.sqrt(np.mean(np.square(found))))
                    for name, found in errors.items()
                },
            }
        )
    return rows


def _synthetic_estimates(world: BanditWorld, log: BanditLog, is_right: bool) -> list[Estimate]:
    target = world.policy(log.contexts, TARGET_SHARPNESS)
    rounds = np.arange(len(log.chosen))
    ratios = target / log.logging
    features = log.features(is_well_specified=is_right)
    fit = cross_fit(features, log.chosen, log.rewards, rounds, penalties=(1.0,))
    choices = AllChoices(target, ratios, fit.expected)
    weights = ratios[rounds, log.chosen]
    return all_estimates(log.rewards, choices, weights, log.chosen, Bootstrap(n_resamples=0))


def _policy(log: BanditRounds) -> Values:
    """A policy's choices by position: all alike where every propensity says so, else counted."""
    even = 1.0 / log.n_items
    if np.allclose(log.propensities, even, rtol=1e-4):
        return np.full((int(log.positions.max()) + 1, log.n_items), even)
    return choice_frequencies(log)


def show_direction(console: Console, found: dict[str, Any], names: dict[str, str]) -> None:
    """One direction as a table, with the verdict under it."""
    truth = found["truth"]
    table = Table(
        title=f"log of {names[found['from']]}, value of {names[found['to']]}: on its own log"
        f" {_per_mille(truth)}",
        title_justify="left",
    )
    for name in ("estimator", "value per 1000", "relative error", "note"):
        table.add_column(name, justify="right" if "e per" in name or "error" in name else "left")
    for one in found["estimates"]:
        table.add_row(one["name"], _per_mille(one), f"{one['relative_error']:.3f}", one["note"])
    console.print(table)
    support = found["support"]
    console.print(
        f"ESS {support['ess']:,.0f} of {support['n_rounds']:,}, effective rewards"
        f" {support['rewarded_ess']:.1f}, mean weight {support['mean_weight']:.3f} ±"
        f" {support['mean_error']:.3f}, greatest {support['max_weight']:.1f}"
    )
    reasons = "; ".join(support["reasons"])
    console.print(f"refused: {reasons}" if reasons else "supported", markup=False)


def show_synthetic(console: Console, rows: Sequence[dict[str, Any]], n_rounds: int) -> None:
    """Errors by estimator, one column per model."""
    table = Table(
        title=f"known world, {n_rounds:,} rounds, {SYNTHETIC_CHOICES} choices: root mean squared"
        " relative error (bias)",
        title_justify="left",
    )
    table.add_column("estimator")
    for row in rows:
        table.add_column(f"{row['model']} model", justify="right")
    for name in rows[0]["error"]:
        table.add_row(
            name, *(f"{row['error'][name]:.4f} ({row['bias'][name]:+.4f})" for row in rows)
        )
    console.print(table)


def _per_mille(one: dict[str, Any]) -> str:
    low, high = one["low"], one["high"]
    return f"{1000 * one['value']:.2f} [{1000 * low:.2f}, {1000 * high:.2f}]"


def main(
    arguments: Sequence[str] | None = None, clock_s: Callable[[], float] = time.monotonic
) -> int:
    """Measure, print, and keep the figures where a file is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=Path, help="folder of one policy's log")
    parser.add_argument("--second", type=Path, help="folder of the other's, on the same items")
    parser.add_argument("--runs", type=int, default=SYNTHETIC_RUNS, help="synthetic worlds")
    parser.add_argument("--rounds", type=int, default=SYNTHETIC_ROUNDS, help="rounds of each")
    parser.add_argument("--json", type=Path, help="where the figures are kept")
    options = parser.parse_args(arguments)
    console = Console(width=130)
    started_s = clock_s()
    document: dict[str, Any] = {}
    if options.first is not None and options.second is not None:
        names = {"first": str(options.first), "second": str(options.second)}
        document["policies"] = names
        document["directions"] = both_directions(
            read_rounds(options.first), read_rounds(options.second)
        )
        for found in document["directions"]:
            show_direction(console, found, names)
    document["synthetic"] = synthetic_errors(options.runs, options.rounds)
    show_synthetic(console, document["synthetic"], options.rounds)
    document["seconds"] = round(clock_s() - started_s, 1)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
