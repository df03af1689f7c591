"""Trains the scorer on what the trained retrieval proposes, then calibrates it.

A listwise softmax learns the order, a cross-entropy per action what follows an engagement; a part
kept aside decides when to stop, how far to trust the residual, and the probabilities. Logged
slates teach the order beside a term for their positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.item_successors import ItemSuccessors
from recsys.learning_settings import ScorerSettings
from recsys.scorer import CandidateScorer
from recsys.scorer_network import Estimates, ScorerNetwork
from recsys.types import FloatArray
from train_app.learning.adam import AdamW, clip_gradients
from train_app.learning.divergence import scorer_divergence
from train_app.learning.ranking.calibration import (
    Choice,
    choose_blend,
)
from train_app.learning.ranking.first_blend import first_blend
from train_app.learning.ranking.first_config import first_config
from train_app.learning.ranking.scorer_examples import ScorerExamples
from train_app.learning.ranking.scorer_validation import calibrate, engaged_with, line_of, validate
from train_app.learning.slates.scorer_positions import SlateSteps
from train_app.learning.slates.scorer_slates import ShownExamples
from train_app.learning.warm_start import start_scorer_from

_MIN_EXAMPLES = 40
"""With fewer, nothing is learned and the order of retrieval is kept."""
_DROPOUT = 0.2
_WEIGHT_DECAY = 0.01
_BETAS = (0.9, 0.99)
_CLIP_NORM = 1.0
_RESIDUAL_PENALTY = 1e-3
"""Of the squared residual: where data says nothing, the retrieval score stands."""


@dataclass(frozen=True, slots=True)
class ScorerFit:
    """A trained scorer and what its validation part said."""

    scorer: CandidateScorer
    metrics: dict[str, float]


def train_scorer(
    examples: ScorerExamples,
    is_kept: NDArray[np.bool_],
    actions: Sequence[str],
    negative_kinds: Sequence[str],
    vectors: FloatArray,
    popularity: FloatArray,
    settings: ScorerSettings,
    seed: int,
    clock_s: Callable[[], float],
    report: Callable[[float, dict[str, float]], None],
    warm_start: Path | None = None,
    warm_rate_share: float | None = None,
    shown: ShownExamples | None = None,
    successors: ItemSuccessors | None = None,
) -> ScorerFit:
    """Train and calibrate a scorer.

    Args:
        is_kept: [E] the examples to validate on; an earlier training never learned from them.
        vectors: [N, D] item vectors the examples were retrieved with.
        popularity: [N] in standard units.
        report: called with the share done and metrics.
        warm_start: a bundle directory whose scorer to start from, where its shape fits.
        warm_rate_share: what a warm start took the learning rate of `settings` with.
        shown: logged slates to learn from as well, each with an engagement.
        successors: what follows what, counted without the examples' labels.

    Raises:
        TrainingDiverged: a loss or gradient is not finite.
    """
    torch.manual_seed(seed)
    rng = np.random.default_rng((seed, 2))
    config = first_config(examples, actions, negative_kinds, vectors, settings, successors)
    network = ScorerNetwork(config, _DROPOUT)
    tensors = torch.from_numpy(vectors), torch.from_numpy(popularity)
    scorer = CandidateScorer(config, network, *tensors, successors)
    is_warm = warm_start is not None and start_scorer_from(network, actions, warm_start)
    is_positive = ~np.array(config.is_negative)
    if len(examples) < _MIN_EXAMPLES or is_kept.all() or not is_kept.any():
        report(1.0, {})
        return ScorerFit(scorer, {"scorer_examples": float(len(examples)), "scorer_blend": 0.0})
    kept, learned = (examples.pick(np.flatnonzero(part)) for part in (is_kept, ~is_kept))
    slates = _slate_steps(shown, is_positive, rng)
    parts = scorer, learned, kept, is_positive, settings, rng, clock_s, report
    fitting = _Fitting(*parts, warm_rate_share, slates)
    fitting.run(is_warm)
    metrics = fitting.metrics() | ({} if slates is None else slates.metrics())
    metrics |= {"scorer_examples": float(len(examples)), "scorer_is_warm": float(is_warm)}
    return ScorerFit(calibrate(scorer, kept, is_positive, fitting.choice), metrics)


def _slate_steps(
    shown: ShownExamples | None, is_positive: NDArray[np.bool_], rng: np.random.Generator
) -> SlateSteps | None:
    """What is learned from logged slates; None where there are none."""
    if shown is None or not len(shown):
        return None
    return SlateSteps(shown, is_positive, _BETAS, rng)


class _Fitting:
    """One fit: keeps the network of the epoch that validates best."""

    def __init__(
        self,
        scorer: CandidateScorer,
        learned: ScorerExamples,
        kept: ScorerExamples,
        is_positive: NDArray[np.bool_],
        settings: ScorerSettings,
        rng: np.random.Generator,
        clock_s: Callable[[], float],
        report: Callable[[float, dict[str, float]], None],
        warm_rate_share: float | None,
        slates: SlateSteps | None,
    ) -> None:
        self.choice = Choice(0.0, 0.0)
        self._scorer = scorer
        self._learned = learned
        self._kept = kept
        self._is_positive = is_positive
        self._settings = settings
        self._rng = rng
        self._clock_s = clock_s
        self._report = report
        self._warm_rate_share = warm_rate_share
        self._slates = slates
        self._parameters = list(scorer.network.parameters())
        self._optimizer = AdamW(self._parameters, _WEIGHT_DECAY, _BETAS)

    def metrics(self) -> dict[str, float]:
        """What validation chose."""
        choice = self.choice
        return {"scorer_blend": choice.share, "scorer_validation_gain_ndcg@10": choice.gain}

    def run(self, is_warm: bool) -> None:
        """Train until the epochs or the minutes end; leave the best network in the scorer.

        Args:
            is_warm: what the network knows already may be the best.
        """
        network = self._scorer.network
        if not is_warm:
            self._begin_with_the_line()
        if is_warm or self._scorer.config.reads_successors:
            self.choice = self._validate()
        began_s, share_done = self._clock_s(), 0.0
        best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        for epoch in range(self._settings.epochs):
            batches = self._batches()
            n_batches = len(batches)
            for place, (index, slates) in enumerate(batches):
                self._step(self._learned.pick(index), slates, share_done, epoch)
                done = (epoch + (place + 1) / n_batches) / self._settings.epochs
                limit_s = 60 * self._settings.max_minutes
                spent = (self._clock_s() - began_s) / limit_s if limit_s else 0.0
                share_done = max(done, spent)
                if share_done >= 1.0:
                    break
            choice = self._validate()
            if choice.gain > self.choice.gain:
                self.choice = choice
                best = {name: tensor.clone() for name, tensor in network.state_dict().items()}
            metrics = {"epoch": epoch + 1.0, "blend": choice.share, "gain_ndcg@10": choice.gain}
            self._report(min(share_done, 1.0), metrics)
            if share_done >= 1.0:
                break
        if self.choice.share > 0:
            network.load_state_dict(best)
        network.eval()

    def _begin_with_the_line(self) -> None:
        """Let the network begin at what the retrieval score and the successors say alone."""
        network, learned = self._scorer.network, self._learned
        if not self._scorer.config.reads_successors:
            return
        line = line_of(self._scorer, learned)
        score, chance = first_blend(
            *line, learned.rows >= 0, engaged_with(learned, self._is_positive)
        )
        with torch.no_grad():
            network.score_gain.fill_(score)
            network.chance_gain.fill_(chance)

    def _batches(self) -> list[tuple[NDArray[np.int64], NDArray[np.int64] | None]]:
        """The moments and the slates of each step of an epoch."""
        order = self._rng.permutation(len(self._learned))
        n_slates = 0 if self._slates is None else len(self._slates)
        n_batches = math.ceil(max(len(order), n_slates) / self._settings.batch_size)
        moments = np.array_split(order, min(n_batches, len(order)))
        if self._slates is None:
            return [(index, None) for index in moments]
        return list(zip(moments, self._slates.batches(len(moments)), strict=True))

    def _step(
        self,
        examples: ScorerExamples,
        slates: NDArray[np.int64] | None,
        share_done: float,
        epoch: int,
    ) -> None:
        cosine = 0.5 * (1 + math.cos(math.pi * min(share_done, 1.0)))
        self._scorer.network.train()
        inputs, _ = self._scorer.inputs(examples.batch())
        estimates = self._scorer.network(inputs)
        loss = _loss(estimates, examples, self._is_positive)
        if self._slates is not None and slates is not None and len(slates):
            loss = loss + self._slates.loss(self._scorer, slates)
        self._optimizer.clear_gradients()
        loss.backward()  # type: ignore[no-untyped-call]
        length = clip_gradients(self._parameters, _CLIP_NORM)
        if not (math.isfinite(loss.item()) and math.isfinite(length)):
            peak, share = self._settings.learning_rate, self._warm_rate_share
            raise scorer_divergence(epoch, loss.item(), peak, share)
        rate = self._settings.learning_rate * (0.02 + 0.98 * cosine)
        self._optimizer.step(rate)
        if self._slates is not None:
            self._slates.step(rate)

    def _validate(self) -> Choice:
        validated = validate(self._scorer, self._kept)
        engaged = engaged_with(self._kept, self._is_positive)
        return choose_blend(validated.base, validated.residual, engaged)


def _loss(estimates: Estimates, examples: ScorerExamples, is_positive: NDArray[np.bool_]) -> Tensor:
    """Listwise softmax over candidates plus a cross-entropy per action of acted-on candidates."""
    usable = torch.from_numpy(examples.rows >= 0)
    engaged = torch.from_numpy(engaged_with(examples, is_positive))
    total = (estimates.base + estimates.residual).masked_fill(~usable, -torch.inf)
    log_shares = torch.log_softmax(total, dim=1)
    n_engaged = max(int(engaged.sum()), 1)
    ranking = -log_shares[engaged].sum() / n_engaged
    penalty = _RESIDUAL_PENALTY * (estimates.residual[usable] ** 2).mean()
    labels = torch.from_numpy(examples.labels)
    acted = labels.any(-1)
    if not bool(acted.any()):
        return penalty
    outcomes = labels[acted].float()
    odds = outcomes.mean(0).clamp(0.01, 0.99).logit()
    deviations = estimates.deviations[acted]
    actions = torch.nn.functional.binary_cross_entropy_with_logits(odds + deviations, outcomes)
    return ranking + penalty + actions
