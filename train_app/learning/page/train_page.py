"""Trains retrieval and scorer as one, after each was trained for itself.

Both read the same item vectors and the same user state, so the losses of the page reach the towers
through both stages. Moments kept aside decide whether the pair is better than before. Knows
nothing of files, of where moments come from or of calibration.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.joint_settings import JointSettings
from recsys.scorer import CandidateScorer, recent_items
from recsys.tower_networks import TwoTower
from recsys.two_tower import left_aligned
from recsys.types import Batch, RowArray
from train_app.learning.adam import AdamW, clip_gradients
from train_app.learning.page.page_losses import (
    arrival,
    distillation_loss,
    listwise_loss,
    similarity_loss,
    survival_loss,
)
from train_app.learning.page.page_samples import PageSamples

_WEIGHT_DECAY = 0.01
_BETAS = (0.9, 0.99)
_CLIP_NORM = 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """Retrieval and scorer as they stand."""

    model: TwoTower
    scorer: CandidateScorer


@dataclass(frozen=True, slots=True)
class PageCheck:
    """What a pair does at the moments kept aside."""

    ndcg: NDArray[np.float64]  # [E] of the page; 0 where retrieval missed the true item
    top: RowArray  # [E, page] what retrieval ranks first


@dataclass(frozen=True)
class JointFit:
    """The better pair, and what the moments kept aside said of the joint one."""

    pair: Pair
    metrics: dict[str, float]


def train_page(
    pair: Pair,
    samples: PageSamples,
    check: Callable[[Pair], PageCheck],
    settings: JointSettings,
    n_retrieved: int,
    rng: np.random.Generator,
    clock_s: Callable[[], float],
    report: Callable[[float], None],
) -> JointFit:
    """Train the pair on whole moments; the answer is the pair it was given where that is better.

    Better is a mean gain in the page's NDCG above its standard error, paired by moment, with no
    more churn than allowed; unless the settings want the joint pair whatever it is. The given pair
    is left as it is.

    Args:
        samples: moments the towers did not learn from.
        check: measures a pair at other moments.
        n_retrieved: how many items retrieval passes on when serving.
        report: called with the share that is done.
    """
    began_s = clock_s()
    start = check(pair)
    trained, best, best_gain, share_done = pair, pair, 0.0, 0.0
    metrics = {"joint_gain_ndcg@10": 0.0, "joint_churn": 0.0, "joint_epochs": 0.0}
    training = _Training(pair, settings, n_retrieved)
    n_batches = math.ceil(len(samples) / settings.batch_size)
    for epoch in range(settings.epochs):
        order = rng.permutation(len(samples))
        for place, index in enumerate(np.array_split(order, n_batches)):
            if not training.step(samples.pick(index), share_done):
                return JointFit(best, {**metrics, "joint_diverged": 1.0})
            done = (epoch + (place + 1) / n_batches) / settings.epochs
            spent = (clock_s() - began_s) / (60 * settings.max_minutes)
            share_done = max(done, spent)
            report(min(share_done, 1.0))
            if share_done >= 1.0:
                break
        trained = training.pair()
        checked = check(trained)
        gain, moved = paired_gain(checked, start), churn(checked, start)
        metrics |= {"joint_last_gain_ndcg@10": gain.mean, "joint_last_churn": moved}
        if gain.mean > max(gain.standard_error, best_gain) and moved <= settings.max_churn:
            best, best_gain = trained, gain.mean
            metrics |= {"joint_gain_ndcg@10": gain.mean, "joint_churn": moved}
            metrics["joint_epochs"] = epoch + 1.0
        if share_done >= 1.0:
            break
    return JointFit(best if settings.only_if_better else trained, metrics)


@dataclass(frozen=True, slots=True)
class Gain:
    """A mean difference and its standard error."""

    mean: float
    standard_error: float


def paired_gain(one: PageCheck, other: PageCheck) -> Gain:
    """How much better the page of `one` is, moment by moment; certain of nothing below two."""
    differences = one.ndcg - other.ndcg
    if len(differences) < 2:
        return Gain(0.0, math.inf)
    spread = float(differences.std(ddof=1))
    return Gain(float(differences.mean()), spread / len(differences) ** 0.5)


def churn(one: PageCheck, other: PageCheck) -> float:
    """The share of retrieval's first items that are not among those of the other."""
    if not one.top.size:
        return 0.0
    kept = (one.top[:, :, None] == other.top[:, None, :]).any(2)
    return 1.0 - float(kept.mean())


class _Training:
    """A copy of a pair that learns."""

    def __init__(self, pair: Pair, settings: JointSettings, n_retrieved: int) -> None:
        self._model = copy.deepcopy(pair.model).eval()
        self._scorer = pair.scorer.with_network(
            pair.scorer.config, copy.deepcopy(pair.scorer.network)
        )
        self._settings = settings
        self._quotas = (float(n_retrieved), float(settings.page))
        self._towers = list(self._model.parameters())
        self._layers = list(self._scorer.network.parameters())
        self._tower_steps = AdamW(self._towers, _WEIGHT_DECAY, _BETAS)
        self._layer_steps = AdamW(self._layers, _WEIGHT_DECAY, _BETAS)
        for parameter in (*self._towers, *self._layers):
            parameter.requires_grad_(True)

    def pair(self) -> Pair:
        """The pair as it stands, to serve with; later steps do not change it."""
        model = copy.deepcopy(self._model)
        network = copy.deepcopy(self._scorer.network).eval()
        scorer = self._scorer.with_network(self._scorer.config, network)
        scorer.vectors = torch.from_numpy(model.item_vectors())
        return Pair(model, scorer)

    def step(self, samples: PageSamples, share_done: float) -> bool:
        """Learn from some moments; false where the loss is lost, which no step is taken for."""
        self._scorer.network.train()
        self._tower_steps.clear_gradients()
        self._layer_steps.clear_gradients()
        loss = self._loss(samples)
        loss.backward()  # type: ignore[no-untyped-call]
        rate = 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(share_done, 1.0)))
        length = clip_gradients([*self._towers, *self._layers], _CLIP_NORM)
        if not (math.isfinite(loss.item()) and math.isfinite(length)):
            return False
        if self._settings.tower_rate > 0:
            self._tower_steps.step(self._settings.tower_rate * rate)
        self._layer_steps.step(self._settings.scorer_rate * rate)
        return True

    def _loss(self, samples: PageSamples) -> Tensor:
        retrieval, estimates, vectors = self._scores(samples)
        settings = self._settings
        weights = torch.from_numpy(samples.weights)
        target = torch.zeros(len(samples), dtype=torch.int64)
        arrives = arrival(retrieval.detach(), weights, self._quotas[0], settings.temperature)
        loss = settings.stages * (
            listwise_loss(retrieval, target, weights)
            + listwise_loss(estimates, target, weights * arrives)
        )
        if settings.survival:
            loss = loss + settings.survival * survival_loss(
                retrieval, estimates, target, weights, self._quotas, settings.temperature
            )
        if settings.distillation:
            taught = distillation_loss(retrieval, estimates, weights)
            loss = loss + settings.distillation * taught
        if settings.diversity:
            loss = loss + settings.diversity * similarity_loss(estimates, vectors, weights)
        if settings.stability:
            before = torch.from_numpy(samples.before)
            loss = loss + settings.stability * distillation_loss(retrieval, before, weights)
        return loss

    def _scores(self, samples: PageSamples) -> tuple[Tensor, Tensor, Tensor]:
        """Retrieval scores [B, S], estimates [B, S] and item vectors [B, S, D] of a step."""
        history = samples.history
        items, kinds, gaps, lengths = left_aligned(history, self._model.config.history_length)
        rows, place_of = _distinct(items, history["items"], samples.rows)
        vectors = self._model.item(torch.from_numpy(rows))
        user = self._model.user.embedding(
            vectors[place_of(items)],
            torch.from_numpy(kinds.astype(np.int64)),
            torch.from_numpy(gaps.astype(np.int64)),
            torch.from_numpy(lengths),
        )
        sampled = vectors[place_of(samples.rows)]
        batch: Batch = {
            **history,
            "rows": samples.rows,
            "sources": samples.sources,
            "ranks": samples.ranks,
        }
        recent = vectors[place_of(recent_items(batch))]
        inputs, retrieval = self._scorer.network_inputs(batch, user, sampled, recent)
        estimates = self._scorer.network(inputs)
        return retrieval, estimates.base + estimates.residual, sampled


def _distinct(
    *row_arrays: RowArray,
) -> tuple[NDArray[np.int64], Callable[[RowArray], Tensor]]:
    """The item rows of a step, each once, and the map from rows to their places; -1 is row 0."""
    flat = np.concatenate([np.maximum(rows, 0).reshape(-1) for rows in row_arrays])
    rows = np.unique(flat).astype(np.int64)

    def place_of(wanted: RowArray) -> Tensor:
        return torch.from_numpy(np.searchsorted(rows, np.maximum(wanted, 0)))

    return rows, place_of
