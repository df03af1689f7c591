"""One report of one or several cuts: pooled figures, the best baseline, and every section.

Pure: puts together what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from recsys.settings import Settings
from train_app.evaluation.breakdown.cost_section import cost_section
from train_app.evaluation.breakdown.query_traits import QueryTraits
from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.breakdown.segments import segment_section
from train_app.evaluation.breakdown.stage_losses import loss_section, stage_section
from train_app.evaluation.evaluate import tabulate
from train_app.evaluation.evaluation_protocols import Protocol
from train_app.evaluation.evaluation_table import NDCG, Evaluation, Ranked
from train_app.evaluation.metrics import bootstrap_mean
from train_app.evaluation.rankers import PAGE, POPULARITY, RETRIEVAL_EXACT
from train_app.evaluation.rivals.rank_all_methods import CutResult


def report_of(
    results: Sequence[CutResult], against: str | None, settings: Settings, notes: Sequence[str]
) -> Evaluation:
    """The table of all cuts together, with the sections of the newest.

    Args:
        against: the bundle compared with, if any.
        notes: what else a reader must know.
    """
    seed, newest = settings.train.seed, results[-1]
    ranked, traits = _pooled(results), QueryTraits.pooled([result.traits for result in results])
    baselines = [name for name in newest.baselines if name in ranked]
    best = best_baseline(ranked, baselines)
    compared = [(RETRIEVAL_EXACT, best), *((PAGE, name) for name in baselines)]
    if against is not None:
        compared.append((PAGE, f"{against} {PAGE}"))
    training = newest.subject.training
    facts: dict[str, object] = {
        "bundle_id": newest.subject.bundle_id,
        "best_baseline": best,
        "seed": seed,
        "cuts_ms": [result.held_out.train_until_ms for result in results],
    }
    if training is not None:
        facts |= {"train_s": training.wall_s, "training": training.as_dict()}
    return tabulate(
        newest.held_out,
        ranked,
        seed,
        facts=facts,
        notes=[
            _source_note(newest),
            *dict.fromkeys(notes),
            *newest.notes,
            *_missing_notes(results, ranked),
            *_fixed_notes(newest.held_out.protocol),
        ],
        compared=compared,
        traits=traits,
        sections=_sections(results, ranked, traits, best, settings),
    )


def best_baseline(ranked: dict[str, Ranked], baselines: Sequence[str]) -> str:
    """The baseline of highest NDCG@10 on the held-out engagements themselves."""
    return max(baselines, key=lambda name: float(ranked[name].per_query[NDCG].mean()))


def cut_section(results: Sequence[CutResult], ranked: dict[str, Ranked], seed: int) -> Section:
    """NDCG@10 of every method at every cut."""
    columns = ["method"]
    for result in results:
        day = np.datetime64(result.held_out.train_until_ms or 0, "ms").astype("datetime64[m]")
        columns.append(f"from {day}")
    rows: list[tuple[Cell, ...]] = [("queries", *(len(result.held_out) for result in results))]
    for name in ranked:
        cells = [
            bootstrap_mean(result.ranked[name].per_query[NDCG], result.held_out.users, seed)
            for result in results
        ]
        rows.append((name, *cells))
    title = f"{NDCG} by cut; every cut has a training of its own, up to it"
    if results[-1].subject.bundle_id is not None:
        title = f"{NDCG} by cut; one bundle, baselines fitted up to each cut"
    return Section("cuts", title, tuple(columns), tuple(rows))


def _pooled(results: Sequence[CutResult]) -> dict[str, Ranked]:
    """The methods that ranked at every cut, their queries one cut after the other."""
    names = [name for name in results[-1].ranked if all(name in r.ranked for r in results)]
    pooled = {}
    for name in names:
        parts = [result.ranked[name] for result in results]
        pooled[name] = Ranked(
            lists=np.concatenate([part.lists for part in parts]),
            per_query={
                metric: np.concatenate([part.per_query[metric] for part in parts])
                for metric in parts[0].per_query
            },
            ranks=np.concatenate([part.ranks for part in parts]),
        )
    return pooled


def _sections(
    results: Sequence[CutResult],
    ranked: dict[str, Ranked],
    traits: QueryTraits,
    best: str,
    settings: Settings,
) -> list[Section]:
    seed, newest = settings.train.seed, results[-1]
    sections = [] if len(results) == 1 else [cut_section(results, ranked, seed)]
    shown = dict.fromkeys((POPULARITY, best, RETRIEVAL_EXACT, PAGE))
    values = {name: ranked[name].per_query[NDCG] for name in shown if name in ranked}
    gain = (PAGE, best) if PAGE in ranked else None
    sections.append(segment_section(NDCG, values, traits, seed, gain))
    if newest.held_out.candidates is None:
        stages = stage_section(ranked, traits, seed, settings.retrieval.n_candidates)
        losses = loss_section(ranked, traits, seed, settings.retrieval.n_candidates)
        sections += [section for section in (stages, losses) if section is not None]
    costs = cost_section(newest.costs, newest.ranked, newest.traits, seed)
    return [*sections, *newest.sections, costs]


def _source_note(result: CutResult) -> str:
    if result.subject.bundle_id is not None or result.subject.training is None:
        return f"bundle {result.subject.bundle_id}"
    return f"trained with the present settings in {result.subject.training.wall_s} s"


def _missing_notes(results: Sequence[CutResult], ranked: dict[str, Ranked]) -> list[str]:
    """Which methods the table of all cuts leaves out."""
    names = dict.fromkeys(name for result in results for name in result.ranked)
    return [f"{name} is left out: not at every cut" for name in names if name not in ranked]


def _fixed_notes(protocol: Protocol) -> list[str]:
    by_time = [
        "the page reads trends as of each query, as serving does, and so does 'popularity, "
        "trending'; the other baselines know what was popular until the cut, and of later events "
        "the user's own history alone"
    ]
    return [
        *(by_time if protocol == "time" else []),
        f"{RETRIEVAL_EXACT}: the user tower over all items, which is what a sequential model "
        "without a scorer reaches",
        "baselines: settings chosen on the training part; the best one is named after the fact, "
        "by this table's NDCG@10",
        "NDCG@10 IPS and per item: weighted by 1 / (training engagements of the held-out item) to "
        "the power 1/2 and 1",
    ]
