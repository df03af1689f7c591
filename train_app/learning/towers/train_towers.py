"""Trains both towers: every event predicts the next one, by a softmax over shared negatives.

The one loop for every way to run it: alone, resumed, or as one of several workers that split each
batch and sum their gradients. Knows nothing of Ray, of files or of the scorer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.learning_settings import TowerSettings
from recsys.tower_networks import TwoTower
from train_app.learning.adam import AdamW, clip_gradients
from train_app.learning.checkpoints import Checkpoint
from train_app.learning.divergence import tower_divergence
from train_app.learning.towers.negatives import Negatives, NegativeSampler
from train_app.learning.towers.sequence_batches import (
    BatchPlan,
    SequenceBatch,
    Sequences,
    Windows,
    assemble,
    cut_windows,
    plan_epoch,
)
from train_app.learning.towers.softmax_loss import shared_softmax_loss
from train_app.learning.weight_average import WeightAverage

_WARM_UP_STEPS = 100
_FINAL_RATE = 0.02
"""Share of the learning rate that the cosine schedule ends at."""
_CLIP_NORM = 1.0
_BETAS = (0.9, 0.98)


@dataclass(frozen=True, slots=True)
class Peers:
    """The workers that train together; alone, there is nothing to sum."""

    rank: int = 0
    size: int = 1
    sum_across: Callable[[Tensor], None] = field(default=lambda tensor: None)


@dataclass(frozen=True, slots=True)
class TowerRun:
    """What does not change while towers are trained."""

    sequences: Sequences
    settings: TowerSettings
    seed: int
    use_bfloat16: bool
    peers: Peers = Peers()
    warm_rate_share: float | None = None
    """What a warm start took the learning rate with; for the message where it is too high."""
    warm_up_steps: int = _WARM_UP_STEPS


@dataclass(frozen=True, slots=True)
class TowerProgress:
    """Where a run stands after a step."""

    step: int
    epoch: float
    share_done: float
    elapsed_s: float
    loss: float
    """Mean over the step's predictions, in nats."""


class TowerTrainer:
    """The state of a tower run: model, optimiser and place in the schedule."""

    def __init__(self, model: TwoTower, run: TowerRun, clock_s: Callable[[], float]) -> None:
        self.model = model
        self.step = 0
        self.share_done = 0.0
        self._run = run
        self._clock_s = clock_s
        self._began_s = clock_s()
        self._parameters = list(model.parameters())
        self._optimizer = AdamW(self._parameters, run.settings.weight_decay, _BETAS)
        self.average = WeightAverage(self._parameters, run.settings.weight_average)
        targets = run.sequences.rows[run.sequences.is_target]
        counts = np.bincount(targets, minlength=model.config.n_items)
        self._sampler = NegativeSampler(counts, run.settings.n_negatives)
        # Without content there is nothing that could do in an id's place.
        self._has_content = (model.item.content >= 0).any(1).numpy()

    def train(self) -> Iterator[TowerProgress]:
        """Steps from the present place to the end of the schedule."""
        self.model.train()
        first, done_in_first = 0, self.step
        step = 0
        for epoch in range(first, self._run.settings.epochs):
            windows, batches = self._epoch(epoch)
            if step + len(batches) <= done_in_first:
                step += len(batches)
                continue
            for place in range(max(done_in_first - step, 0), len(batches)):
                if self.share_done >= 1.0:
                    return
                exact_epoch = epoch + (place + 1) / len(batches)
                yield self._take_step(windows, batches[place], exact_epoch)
            step += len(batches)

    def elapsed_s(self) -> float:
        """Seconds spent on this run, those before a resume included."""
        return self._clock_s() - self._began_s

    def checkpoint(self) -> Checkpoint:
        """A copy of the whole state, to resume from."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, value in self._optimizer.state().items():
            tensors[f"optimizer.{name}"] = value
        for name, value in self.average.state().items():
            tensors[f"average.{name}"] = value
        tensors = {name: value.clone() for name, value in tensors.items()}
        numbers = {"elapsed_s": self.elapsed_s(), "share_done": self.share_done}
        return Checkpoint(self.step, tensors, numbers)

    def resume(self, checkpoint: Checkpoint) -> None:
        """Continue where `checkpoint` was taken."""
        tensors = checkpoint.tensors
        self.model.load_state_dict(_named_below(tensors, "model."))
        self._optimizer.restore(_named_below(tensors, "optimizer."))
        self.average.restore(_named_below(tensors, "average."))
        self.step = checkpoint.step
        self.share_done = checkpoint.numbers["share_done"]
        self._began_s = self._clock_s() - checkpoint.numbers["elapsed_s"]

    def _epoch(self, epoch: int) -> tuple[Windows, list[BatchPlan]]:
        rng = np.random.default_rng((self._run.seed, epoch))
        length = self.model.config.history_length
        windows = cut_windows(self._run.sequences, length, rng)
        return windows, plan_epoch(windows, self._run.settings.batch_size, length, rng)

    def _take_step(self, windows: Windows, plan: BatchPlan, exact_epoch: float) -> TowerProgress:
        run, peers = self._run, self._run.peers
        rng = np.random.default_rng((run.seed, self.step, 1))
        negatives = self._sampler.draw(rng)
        torch.manual_seed(int(rng.integers(2**62)) + peers.rank)
        own = windows.pick(plan.index[peers.rank :: peers.size])
        batch = assemble(run.sequences, own, plan.width, -(-plan.height // peers.size))
        self._optimizer.clear_gradients()
        loss = self._loss(batch, negatives) if batch.n_targets else None
        if loss is not None:
            loss.backward()  # type: ignore[no-untyped-call]
        total = self._sum_gradients(0.0 if loss is None else loss.item(), batch.n_targets)
        length = clip_gradients(self._parameters, _CLIP_NORM)
        rate = run.settings.learning_rate * rate_share(
            self.share_done, self.step, run.warm_up_steps
        )
        if not (math.isfinite(total.mean_loss) and math.isfinite(length)):
            # Before the step is taken, so that what a checkpoint holds was always good.
            peak, share = run.settings.learning_rate, run.warm_rate_share
            raise tower_divergence(self.step, exact_epoch, rate, total.mean_loss, peak, share)
        self._optimizer.step(rate)
        self.average.update()
        self.step += 1
        self.share_done = share_of_schedule(run.settings, exact_epoch, self.step, total.elapsed_s)
        return TowerProgress(
            self.step, exact_epoch, min(self.share_done, 1.0), total.elapsed_s, total.mean_loss
        )

    def _loss(self, batch: SequenceBatch, negatives: Negatives) -> Tensor:
        targets = batch.targets.reshape(-1)
        places = np.flatnonzero(targets >= 0)
        positive_rows = targets[places].astype(np.int64)
        rows, place_of = _distinct_rows(
            self.model.config.n_items, batch.items, positive_rows, negatives.rows
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=self._run.use_bfloat16):
            hidden = hidden_rows(rows, self.step, self._run.settings.id_dropout)
            hidden &= self._has_content[rows]
            vectors = self.model.item(torch.from_numpy(rows), torch.from_numpy(hidden))
            inputs = torch.from_numpy(place_of(np.maximum(batch.items, 0)))
            states = self.model.user(
                vectors.index_select(0, inputs.reshape(-1)).view(*inputs.shape, -1),
                torch.from_numpy(batch.kinds.astype(np.int64)),
                torch.from_numpy(batch.gaps.astype(np.int64)),
            )
            states = states.reshape(-1, states.shape[-1])
            width = torch.bfloat16 if self._run.use_bfloat16 else torch.float32
            narrow = vectors.to(width)
            return shared_softmax_loss(
                states.index_select(0, torch.from_numpy(places)).to(width),
                narrow.index_select(0, torch.from_numpy(place_of(positive_rows))),
                narrow.index_select(0, torch.from_numpy(place_of(negatives.rows))),
                torch.from_numpy(negatives.corrections),
                torch.from_numpy(positive_rows),
                torch.from_numpy(negatives.rows),
            )

    def _sum_gradients(self, loss: float, n_targets: int) -> _StepTotal:
        """Make every gradient the mean over all workers' predictions; agree on time as well."""
        peers = self._run.peers
        elapsed_s = self.elapsed_s() if peers.rank == 0 else 0.0
        facts = torch.tensor([loss, n_targets, elapsed_s], dtype=torch.float64)
        if peers.size > 1:
            peers.sum_across(facts)
            for parameter in self._parameters:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                peers.sum_across(parameter.grad)
        count = max(float(facts[1]), 1.0)
        for parameter in self._parameters:
            if parameter.grad is not None:
                parameter.grad /= count
        return _StepTotal(float(facts[0]) / count, float(facts[2]))


@dataclass(frozen=True, slots=True)
class _StepTotal:
    mean_loss: float
    elapsed_s: float


def rate_share(share_done: float, step: int, warm_up_steps: int = _WARM_UP_STEPS) -> float:
    """Share of the learning rate: a linear warm-up, then half a cosine over the schedule."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(share_done, 1.0)))
    return min(1.0, (step + 1) / max(warm_up_steps, 1)) * (_FINAL_RATE + (1 - _FINAL_RATE) * cosine)


def share_of_schedule(settings: TowerSettings, epoch: float, step: int, elapsed_s: float) -> float:
    """How much of the schedule is over: by epochs, steps or minutes, whichever is furthest.

    Without a limit of minutes it follows from the step alone, so a run can be repeated exactly.
    """
    by_steps = step / settings.max_steps if settings.max_steps else 0.0
    by_time = elapsed_s / (60 * settings.max_minutes) if settings.max_minutes else 0.0
    return max(epoch / settings.epochs, by_steps, by_time)


def hidden_rows(rows: NDArray[np.int64], step: int, share: float) -> NDArray[np.bool_]:
    """About `share` of the rows, others in every step; the same for every worker of a step."""
    mixed = rows.astype(np.uint64) + np.uint64(step * 0x9E3779B97F4A7C15 % 2**64)
    for factor in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(factor)
    return np.asarray((mixed >> np.uint64(32)).astype(np.float64) < share * 2.0**32)


def _distinct_rows(
    n_items: int,
    items: NDArray[np.int32],
    positive_rows: NDArray[np.int64],
    negative_rows: NDArray[np.int64],
) -> tuple[NDArray[np.int64], Callable[[NDArray[np.integer]], NDArray[np.int64]]]:
    """The item rows a step needs, each once, and the map from a row to its place among them."""
    n_mentioned = items.size + positive_rows.size + negative_rows.size
    if n_items <= n_mentioned:
        return np.arange(n_items), lambda rows: rows.astype(np.int64)
    rows = np.unique(np.concatenate([items.reshape(-1).clip(0), positive_rows, negative_rows]))
    return rows, lambda wanted: np.searchsorted(rows, wanted)


def _named_below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
