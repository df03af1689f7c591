"""Learned baselines ready to rank: tuned on a slice of the training part, then fitted on all of it.

Knows no library; never sees the held-out part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import process_time

import numpy as np

from recsys.errors import DataError
from recsys.settings import Settings
from train_app.evaluation.breakdown.cost_meter import Cost, CostMeter
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out, is_positive
from train_app.evaluation.evaluation_table import NDCG, measure
from train_app.evaluation.rankers import Ranker, batch_size, history_ranker
from train_app.evaluation.rivals.lenskit_scores import Options, Pairs
from train_app.evaluation.rivals.rival_grids import RIVALS, Rival
from train_app.examples.interactions import Interactions
from train_app.examples.lake_examples import split_by_time

N_VALIDATION = 1_000
"""Queries that settings are compared on."""
MAX_TUNING_CPU_S = 300.0
"""Per baseline, in processor time so that a busy machine tunes alike; a setting begun is
finished."""
LABEL = "fitting baselines"


@dataclass(frozen=True)
class Fitted:
    """A baseline, fitted on the training part."""

    name: str
    ranker: Ranker
    options: Options
    tuning: Cost | None
    fitting: Cost
    note: str


def fit_rivals(
    held_out: HeldOut,
    settings: Settings,
    *,
    tune: bool,
    report: Callable[[str, float], None],
    rivals: Sequence[Rival] = RIVALS,
) -> tuple[list[Fitted], list[str]]:
    """Every baseline that can run on this training part, and why the others cannot.

    Args:
        tune: choose settings on a slice of the training part, with the protocol of `held_out`.
    """
    negative_kinds = settings.events.negative_kinds
    pairs = pairs_of(held_out.train, negative_kinds)
    validation = validation_of(held_out, settings) if tune else None
    fitted, notes = [], []
    for done, rival in enumerate(rivals):
        report(LABEL, done / len(rivals))
        reason = _too_little(pairs) or rival.why_not(pairs)
        if reason is not None:
            notes.append(f"{rival.name} is left out: {reason}")
            continue
        fitted.append(_fit(rival, pairs, validation, settings))
    report(LABEL, 1.0)
    return fitted, notes


def pairs_of(train: Interactions, negative_kinds: tuple[str, ...]) -> Pairs:
    """Who engaged with what, each pair once, without negative kinds."""
    wanted = is_positive(train, negative_kinds)
    n_items = max(1, train.n_items)
    keys = np.unique(train.user_of_event()[wanted] * n_items + train.rows[wanted])
    return Pairs(keys // n_items, keys % n_items, train.n_items)


def validation_of(held_out: HeldOut, settings: Settings) -> HeldOut | None:
    """A slice of the training part held out as the test part was; None where there is none."""
    train, seed = held_out.train, settings.train.seed
    try:
        cutoff_ms = 0
        if held_out.protocol == "time":
            cutoff_ms = split_by_time(train, settings.train.holdout_share)
        validation = hold_out(
            held_out.protocol,
            train,
            cutoff_ms=cutoff_ms,
            negative_kinds=settings.events.negative_kinds,
            seed=seed,
        )
    except DataError:
        return None
    return validation.sample(N_VALIDATION, seed)


def _too_little(pairs: Pairs) -> str | None:
    if pairs.n_known >= 2 and pairs.n_users >= 2:
        return None
    return (
        f"the training part has {pairs.n_users} users and {pairs.n_known} items with an "
        "engagement, expected 2 of each or more"
    )


def _fit(rival: Rival, pairs: Pairs, validation: HeldOut | None, settings: Settings) -> Fitted:
    negative_kinds, seed = settings.events.negative_kinds, settings.train.seed
    options, tuning, said = rival.start, None, "not tuned"
    if validation is not None:
        with CostMeter() as meter:
            options, n_tried, n_all = _tuned(rival, validation, settings)
        tuning = meter.cost
        said = (
            f"the best of {n_tried} settings of {n_all} on {len(validation):,} engagements of the "
            "training part"
        )
    with CostMeter() as meter:
        scores_of = rival.build(pairs, options, seed)
    named = ", ".join(f"{key} {value:g}" for key, value in options.items())
    ranker = history_ranker(rival.name, scores_of, negative_kinds)
    note = f"{rival.name}: {named} ({said})"
    return Fitted(rival.name, ranker, options, tuning, meter.cost, note)


def _tuned(
    rival: Rival, validation: HeldOut, settings: Settings
) -> tuple[dict[str, float], int, int]:
    """The best settings, how many were tried and how many there were to try."""
    pairs = pairs_of(validation.train, settings.events.negative_kinds)
    n_all = 1 + sum(len(values) for _, values in rival.axes)
    best, n_tried = dict(rival.start), 0
    if _too_little(pairs) is not None:
        return best, 0, n_all
    began_s = process_time()

    def quality(options: Options) -> float:
        scores_of = rival.build(pairs, options, settings.train.seed)
        ranker = history_ranker(rival.name, scores_of, settings.events.negative_kinds)
        found = [
            measure(ranker(batch)[rival.name], batch.targets).per_query[NDCG]
            for batch in validation.batches(batch_size(pairs.n_items))
        ]
        return float(np.concatenate(found).mean())

    highest, n_tried = quality(best), 1
    for name, values in rival.axes:
        for value in values:
            if process_time() - began_s > MAX_TUNING_CPU_S:
                return best, n_tried, n_all
            tried = {**best, name: value}
            reached, n_tried = quality(tried), n_tried + 1
            if reached > highest:
                highest, best = reached, tried
    return best, n_tried, n_all
