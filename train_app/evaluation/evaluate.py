"""Offline evaluation: baselines, retrieval and the scored page side by side on held-out data.

Ranks in batches of bounded memory. Training where no bundle is given, and refusing a bundle that
was trained on the test part, is `evaluation_run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from recsys.settings import Settings
from recsys.types import RowArray
from train_app.evaluation.baselines import popularity, recent_since_ms
from train_app.evaluation.breakdown.held_out_traits import held_out_traits
from train_app.evaluation.breakdown.query_traits import QueryTraits
from train_app.evaluation.breakdown.report_section import Section
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.evaluation_table import Evaluation, Ranked, difference, figures, measure
from train_app.evaluation.rankers import (
    PAGE,
    POPULARITY,
    RETRIEVAL_EXACT,
    Ranker,
    batch_size,
    scores_ranker,
)
from train_app.examples.interactions import Interactions

POPULARITY_RECENT = "popularity, recent"
REPORT_LABEL = "evaluating"


def popularity_ranker(train: Interactions, settings: Settings) -> Ranker:
    """The baseline of the gate: what most users engaged with, of all time."""
    return scores_ranker(POPULARITY, popularity(train, settings.events.negative_kinds))


def popularity_rankers(train: Interactions, settings: Settings) -> list[Ranker]:
    """Popularity of all time, and of the newest part."""
    recent = popularity(train, settings.events.negative_kinds, recent_since_ms(train))
    return [popularity_ranker(train, settings), scores_ranker(POPULARITY_RECENT, recent)]


def rank(
    held_out: HeldOut, rankers: Sequence[Ranker], report: Callable[[str, float], None]
) -> dict[str, Ranked]:
    """The measured lists of every method, by name, in the order of the rankers."""
    traits = held_out_traits(held_out)
    lists = ranked_lists(held_out, rankers, report)
    return {name: measure(found, held_out.targets, traits) for name, found in lists.items()}


def ranked_lists(
    held_out: HeldOut, rankers: Sequence[Ranker], report: Callable[[str, float], None]
) -> dict[str, RowArray]:
    """The lists of every method, [Q, K], by name."""
    size = batch_size(held_out.interactions.n_items)
    parts: dict[str, list[RowArray]] = {}
    done = 0
    for batch in held_out.batches(size):
        for ranker in rankers:
            for name, lists in ranker(batch).items():
                parts.setdefault(name, []).append(lists)
        done += len(batch)
        report(REPORT_LABEL, done / len(held_out))
    return {name: np.concatenate(lists) for name, lists in parts.items()}


def tabulate(
    held_out: HeldOut,
    ranked: Mapping[str, Ranked],
    seed: int,
    *,
    facts: Mapping[str, object],
    notes: Sequence[str] = (),
    compared: Sequence[tuple[str, str]] = (),
    traits: QueryTraits | None = None,
    sections: Sequence[Section] = (),
) -> Evaluation:
    """The table of all methods with intervals, and the differences of the pairs named.

    Args:
        traits: of the queries, where they are not those of `held_out` alone.
    """
    traits = QueryTraits.of(held_out) if traits is None else traits
    n_items = held_out.interactions.n_items
    pairs = [pair for pair in ((PAGE, RETRIEVAL_EXACT), *compared) if set(pair) <= set(ranked)]
    return Evaluation(
        protocol=held_out.protocol,
        n_queries=len(traits.users),
        n_users=len(np.unique(traits.users)),
        n_items=n_items,
        figures=tuple(
            figures(name, method, traits, n_items, seed) for name, method in ranked.items()
        ),
        differences=tuple(
            difference(one, ranked[one], other, ranked[other], traits, seed) for one, other in pairs
        ),
        notes=(*_notes(held_out), *notes),
        facts=facts,
        sections=tuple(sections),
    )


def _notes(held_out: HeldOut) -> list[str]:
    notes = ["items of a user's history are not ranked; ranks beyond 200 count as not found"]
    if held_out.n_repeats and held_out.protocol == "time":
        notes.append(
            f"{held_out.n_repeats:,} engagements with items the user had engaged with before are "
            "not evaluated"
        )
    elif held_out.n_repeats:
        notes.append(
            f"{held_out.n_repeats:,} users ended with repeats or negative kinds: their last "
            "engagement with a new item is held out, and what came after it is not used"
        )
    return [*notes, *held_out.notes]
