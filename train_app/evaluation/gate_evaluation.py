"""What the gate needs: the new bundle, popularity and the stable bundle on the same queries."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.bundle import Manifest
from recsys.learning_settings import GateSettings
from recsys.settings import Settings
from recsys.stages import BundleFacts
from train_app.evaluation.evaluate import popularity_ranker, rank, tabulate
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.evaluation_run import Report
from train_app.evaluation.evaluation_table import HR, NDCG, Evaluation, Ranked
from train_app.evaluation.gate import GateDecision, Measured, decide
from train_app.evaluation.gate_guardrails import Guarded, PageFacts
from train_app.evaluation.gate_probe import (
    CalibrationProbe,
    Probed,
    item_tokens,
    new_items,
    probe_costs,
)
from train_app.evaluation.metrics import Values
from train_app.evaluation.rankers import PAGE, POPULARITY, BundleParts, BundleRanker, Ranker
from train_app.examples.interactions import Interactions

STABLE_PREFIX = "stable "
"""Stands before the names of the stable bundle's methods."""
MIN_UNPROMPTED = 100
"""Fewer engagements without a slate than this say too little, and all are compared."""
_COLUMN_OF = {"ndcg@10": NDCG, "hit@10": HR, "recall@10": HR}
"""With one relevant item per query, recall@10 is the hit rate."""


@dataclass(frozen=True)
class GateEvaluation:
    """The table and the decision that was made on it."""

    table: Evaluation
    decision: GateDecision


def evaluate_for_gate(
    interactions: Interactions,
    cutoff_ms: int,
    candidate: tuple[Path, BundleFacts],
    stable: tuple[Path, Manifest] | None,
    settings: Settings,
    report: Report,
    cpu_s: Callable[[], float] = time.process_time,
) -> GateEvaluation:
    """Evaluate a sample of the engagements after the cutoff and decide.

    Args:
        candidate: directory and facts of the new bundle.
        stable: directory and manifest of the bundle that serves now, if any.

    Raises:
        DataError: nothing was held out.
    """
    seed = settings.train.seed
    held_out = hold_out(
        "time",
        interactions,
        cutoff_ms=cutoff_ms,
        negative_kinds=settings.events.negative_kinds,
        seed=seed,
    ).sample(settings.gate.max_evaluated, seed)
    new = _probed(*candidate, settings)
    old = None if stable is None else _probed(*stable, settings)
    probe = _calibration_probe(new, interactions, settings)
    ours = probe or BundleRanker(new.parts, interactions, new.n_candidates)
    rankers: list[Ranker] = [popularity_ranker(held_out.train, settings), ours]
    if old is not None:
        rankers.append(BundleRanker(old.parts, interactions, old.n_candidates, STABLE_PREFIX))
    ranked = rank(held_out, rankers, report)
    measured = _measured(
        ranked,
        held_out,
        settings.gate,
        None if stable is None else comparable_queries(held_out, stable[1]),
        _guarded(ranked, held_out, probe, _costs(new, old, held_out, settings, cpu_s), settings),
    )
    decision = decide(measured, settings.gate, seed)
    table = tabulate(
        held_out,
        ranked,
        seed,
        facts={"train_until_ms": cutoff_ms},
        compared=[(PAGE, STABLE_PREFIX + PAGE)],
    )
    return GateEvaluation(table, decision)


def gate_text(decision: GateDecision) -> str:
    """The rules as lines, and what a comparison of this size can see."""
    lines = [f"gate: {rule.sentence()}" for rule in decision.rules]
    if decision.versus_stable is not None:
        interval = decision.versus_stable
        lines.append(
            f"gate: {decision.metric} minus the stable bundle's: {interval.mean:+.4f}, "
            f"95 % interval {interval.low:+.4f} to {interval.high:+.4f}"
        )
    least = decision.least_drop_shown
    if least is not None and least < 1.0:
        lines.append(f"gate: so many engagements can show a drop of {least:.0%} or more")
    elif least is not None:
        lines.append("gate: so few engagements can show no drop; let a canary judge")
    lines += [f"gate: to change that: {rule.remedy}" for rule in decision.rules if not rule.passed]
    return "\n".join(lines)


def _probed(bundle_dir: Path, facts: BundleFacts, settings: Settings) -> Probed:
    parts = BundleParts.load(bundle_dir, facts, settings)
    return Probed(parts, settings.retrieval.n_candidates)


def _calibration_probe(
    new: Probed, interactions: Interactions, settings: Settings
) -> CalibrationProbe | None:
    """Ranks with the new bundle and looks at its probabilities, where they are guarded."""
    if not settings.gate.max_calibration_error:
        return None
    negative_kinds = settings.events.negative_kinds
    return CalibrationProbe(new.parts, interactions, new.n_candidates, negative_kinds)


def _costs(
    new: Probed,
    old: Probed | None,
    held_out: HeldOut,
    settings: Settings,
    cpu_s: Callable[[], float],
) -> tuple[float | None, float | None]:
    """What a request costs with both bundles, where that is compared."""
    if not settings.gate.max_cost_ratio or old is None:
        return None, None
    ours, theirs = probe_costs([new, old], held_out, cpu_s)
    return ours, theirs


def _guarded(
    ranked: dict[str, Ranked],
    held_out: HeldOut,
    probe: CalibrationProbe | None,
    costs: tuple[float | None, float | None],
    settings: Settings,
) -> Guarded:
    """What the guardrails look at."""
    data, theirs = held_out.interactions, ranked.get(STABLE_PREFIX + PAGE)
    until_ms = held_out.train_until_ms or int(data.timestamps_ms.max())
    return Guarded(
        PageFacts(ranked[PAGE].lists, None if probe is None else probe.found(), costs[0]),
        None if theirs is None else PageFacts(theirs.lists, None, costs[1]),
        held_out.users,
        item_tokens(data.items),
        new_items(held_out.train, until_ms, settings.retrieval.fresh_days),
        # Popularity leaves out what was seen and nothing else.
        np.asarray((ranked[POPULARITY].lists >= 0).any(1)),
    )


def _measured(
    ranked: dict[str, Ranked],
    held_out: HeldOut,
    gate: GateSettings,
    comparable: NDArray[np.bool_] | None,
    guarded: Guarded,
) -> Measured:
    column = _COLUMN_OF[gate.metric]

    def values(name: str) -> Values | None:
        return ranked[name].per_query[column] if name in ranked else None

    return Measured(
        page=ranked[PAGE].per_query[column],
        popularity=ranked[POPULARITY].per_query[column],
        users=held_out.users,
        stable=values(STABLE_PREFIX + PAGE),
        comparable=comparable,
        guarded=guarded,
    )


def comparable_queries(held_out: HeldOut, stable: Manifest) -> NDArray[np.bool_]:
    """The queries on which a new bundle can be fairly compared with the one that serves, [queries].

    Those stable was not trained on. And, where there are enough, those that were no reaction to a
    served slate: what stable showed it also ranks high, so reactions flatter it (exposure bias).
    """
    until_ms = stable.lineage.get("train_until_ms")
    times_ms = held_out.interactions.timestamps_ms[held_out.positions]
    unseen = np.ones(len(held_out), np.bool_)
    if isinstance(until_ms, int):
        unseen = times_ms >= until_ms
    unprompted = unseen & ~held_out.interactions.is_prompted[held_out.positions]
    return unprompted if unprompted.sum() >= MIN_UNPROMPTED else unseen
