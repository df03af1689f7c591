"""Every method on the same held-out engagements: baselines, bundles, and what each of them cost.

Knows how to rank and measure; not how a bundle came to be, nor how a report looks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from recsys.settings import Settings
from train_app.evaluation.breakdown.candidate_budgets import budget_section
from train_app.evaluation.breakdown.cost_meter import Cost
from train_app.evaluation.breakdown.cost_section import MethodCost, TimedRanker
from train_app.evaluation.breakdown.query_traits import QueryTraits
from train_app.evaluation.breakdown.report_section import Section
from train_app.evaluation.breakdown.scorer_calibration import calibration_sections
from train_app.evaluation.breakdown.watched_stages import watched
from train_app.evaluation.evaluate import (
    POPULARITY_RECENT,
    popularity_rankers,
    rank,
    ranked_lists,
)
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.evaluation_table import Ranked
from train_app.evaluation.rankers import PAGE, POPULARITY, BundleParts, BundleRanker, Ranker
from train_app.evaluation.rivals.popularity_as_of import fit_popularity_as_of
from train_app.evaluation.rivals.rival_grids import Rival
from train_app.evaluation.rivals.tune_rivals import Fitted, fit_rivals
from train_app.evaluation.splits.user_pages import UserPages


@dataclass(frozen=True)
class Subject:
    """A bundle to evaluate."""

    bundle_id: str | None
    """`None` for one that was trained for this evaluation."""
    parts: BundleParts
    training: Cost | None
    """`None` where it was trained earlier."""


@dataclass(frozen=True)
class CutResult:
    """All methods on one cut."""

    held_out: HeldOut
    ranked: dict[str, Ranked]
    traits: QueryTraits
    subject: Subject
    costs: dict[str, MethodCost]
    baselines: tuple[str, ...]
    """The names of the methods that are no bundle."""
    notes: tuple[str, ...]
    sections: tuple[Section, ...]
    """What is only measured on this cut: pages per user, calibration, candidate budgets."""


def rank_all_methods(
    held_out: HeldOut,
    whole: HeldOut,
    subject: Subject,
    others: Sequence[Subject],
    settings: Settings,
    *,
    tune: bool,
    rivals: Sequence[Rival],
    devices: Sequence[str] | None,
    report: Callable[[str, float], None],
) -> CutResult:
    """Fit the baselines, rank with everything, and measure.

    Args:
        whole: what `held_out` is a sample of; pages per user are judged by all of it.
        others: bundles beside the subject; their lists bear their ids.
        devices: of every query, "" where it is not known.
    """
    fitted, notes = fit_rivals(held_out, settings, tune=tune, report=report, rivals=rivals)
    if held_out.protocol == "time":
        fitted = [fit_popularity_as_of(held_out, settings, tune=tune), *fitted]
    popular = popularity_rankers(held_out.train, settings)
    baselines = [*popular, *(rival.ranker for rival in fitted)]
    names = (POPULARITY, POPULARITY_RECENT, *(rival.name for rival in fitted))
    n_candidates, data = settings.retrieval.n_candidates, held_out.interactions
    observed, watch = watched(subject.parts)
    bundles: list[Ranker] = [BundleRanker(observed, data, n_candidates)]
    bundles += [
        BundleRanker(other.parts, data, n_candidates, f"{other.bundle_id} ") for other in others
    ]
    timed = [TimedRanker(ranker) for ranker in baselines]
    ranked = rank(held_out, [*timed, *bundles], report)
    costs = _costs(names, timed, fitted)
    spent_s = sum(watch.seconds.values())
    costs[PAGE] = MethodCost(None, subject.training, 1000.0 * spent_s / len(held_out))
    return CutResult(
        held_out=held_out,
        ranked=ranked,
        traits=QueryTraits.of(held_out, devices),
        subject=subject,
        costs=costs,
        baselines=names,
        notes=(*(rival.note for rival in fitted), *notes),
        sections=tuple(_own_sections(held_out, whole, subject.parts, baselines, settings, report)),
    )


def _costs(
    names: Sequence[str], timed: Sequence[TimedRanker], fitted: Sequence[Fitted]
) -> dict[str, MethodCost]:
    by_name = {rival.name: rival for rival in fitted}
    return {
        name: MethodCost(
            by_name[name].tuning if name in by_name else None,
            by_name[name].fitting if name in by_name else None,
            ranker.ms_per_request,
        )
        for name, ranker in zip(names, timed, strict=True)
    }


def _own_sections(
    held_out: HeldOut,
    whole: HeldOut,
    parts: BundleParts,
    baselines: Sequence[Ranker],
    settings: Settings,
    report: Callable[[str, float], None],
) -> list[Section]:
    """Only where all items are ranked: fixed candidates have no retrieval to look into."""
    if held_out.candidates is not None:
        return []
    seed, n_candidates = settings.train.seed, settings.retrieval.n_candidates
    sections = []
    if held_out.protocol == "time":
        pages = UserPages.of(whole, settings, max_users=len(held_out))
        ranker = BundleRanker(parts, held_out.interactions, n_candidates)
        lists = ranked_lists(pages.queries, [*baselines, ranker], report)
        sections.append(pages.section(lists, seed))
    negative_kinds = settings.events.negative_kinds
    sections += calibration_sections(parts, held_out, n_candidates, negative_kinds, seed)
    return [*sections, budget_section(parts, held_out, seed)]
