"""What moments kept aside say of a scorer: how far to trust it, and what its estimates mean.

Changes no weight; the fit itself is `train_scorer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.scorer import CandidateScorer
from train_app.learning.ranking.calibration import (
    Choice,
    choose_blend,
    choose_trust,
    fit_sigmoid,
    ndcg_per_example,
)
from train_app.learning.ranking.scorer_examples import ScorerExamples

_EVALUATED_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Validated:
    """Estimates of the validation part, without padding where flat."""

    base: NDArray[np.float64]  # [E, C], -inf where there is no candidate
    residual: NDArray[np.float64]  # [E, C]
    deviations: NDArray[np.float64]  # [E, C, A]


def calibrated_anew(
    scorer: CandidateScorer, kept: ScorerExamples
) -> tuple[CandidateScorer, dict[str, float]]:
    """A scorer that changed: how far to trust it, and its probabilities, from moments kept aside.

    Args:
        kept: what retrieval proposes for the scorer as it is now.
    """
    is_positive = ~np.array(scorer.config.is_negative)
    validated = validate(scorer, kept)
    choice = choose_blend(validated.base, validated.residual, engaged_with(kept, is_positive))
    metrics = {"scorer_blend": choice.share, "scorer_validation_gain_ndcg@10": choice.gain}
    return calibrate(scorer, kept, is_positive, choice), metrics


def page_ndcg(scorer: CandidateScorer, kept: ScorerExamples) -> NDArray[np.float64]:
    """NDCG@10 of the page by moment, [E], at the best blend; 0 where the true item is missed."""
    is_positive = ~np.array(scorer.config.is_negative)
    validated, engaged = validate(scorer, kept), engaged_with(kept, is_positive)
    share = choose_blend(validated.base, validated.residual, engaged).share
    return ndcg_per_example(validated.base + share * validated.residual, engaged)


def calibrate(
    scorer: CandidateScorer, kept: ScorerExamples, is_positive: NDArray[np.bool_], choice: Choice
) -> CandidateScorer:
    """The scorer with the blend chosen, its probabilities fitted to what users did."""
    validated = validate(scorer, kept)
    usable = kept.rows >= 0
    engaged = engaged_with(kept, is_positive)
    estimates = validated.base + choice.share * validated.residual
    slope, offset = fit_sigmoid(estimates[usable], engaged[usable])
    acted = np.asarray(kept.labels.any(-1))
    outcomes, deviations = kept.labels[acted], validated.deviations[acted]
    log_odds = scorer.config.action_log_odds
    trust = [
        choose_trust(log_odds[action], deviations[:, action], outcomes[:, action]).share
        for action in range(len(log_odds))
    ]
    config = replace(
        scorer.config,
        blend=choice.share,
        slope=slope,
        offset=offset,
        action_trust=tuple(trust),
        acted_rate=float(acted[usable].mean()),
    )
    return scorer.with_network(config, scorer.network)


def validate(scorer: CandidateScorer, kept: ScorerExamples) -> Validated:
    """What the scorer says of every candidate."""
    scorer.network.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(kept), _EVALUATED_AT_ONCE):
            index = np.arange(start, min(start + _EVALUATED_AT_ONCE, len(kept)))
            inputs, _ = scorer.inputs(kept.pick(index).batch())
            parts.append(scorer.network(inputs))
    base, residual, deviations = (
        torch.cat(tensors).double().numpy() for tensors in zip(*parts, strict=True)
    )
    return Validated(np.where(kept.rows >= 0, base, -np.inf), residual, deviations)


def line_of(
    scorer: CandidateScorer, examples: ScorerExamples
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centered scores of retrieval and chances by successors of all candidates, [E, C] each."""
    parts = []
    with torch.inference_mode():
        for start in range(0, len(examples), _EVALUATED_AT_ONCE):
            index = np.arange(start, min(start + _EVALUATED_AT_ONCE, len(examples)))
            inputs, _ = scorer.inputs(examples.pick(index).batch())
            parts.append((inputs.scores, inputs.chances))
    scores, chances = (torch.cat(tensors).double().numpy() for tensors in zip(*parts, strict=True))
    return scores, chances


def engaged_with(examples: ScorerExamples, is_positive: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[E, C] Which candidates the user acted on in a way that is not negative."""
    return np.asarray(examples.labels[..., is_positive].any(-1))
