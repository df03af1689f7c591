"""Watches towers in training at moments kept back: when to stop, and which weights to keep.

Knows no schedule and no files. Legend: V moments, L history length, N items.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.tower_networks import TwoTower
from train_app.learning.towers.sequence_batches import Sequences

LOOKS = 20
"""Over a whole schedule."""
_PLACES = 10
_WORSE_LOOKS = 3
_TOO_FAR = 0.1
"""So many looks in a row this share below the best, by more than chance: training has gone too far.

A smaller loss may come back when the learning rate falls."""
_SURE = 2.0
"""Standard errors: the best of many looks is a little better than the last by chance alone."""
_LOGITS_AT_ONCE = 1 << 24
_MOMENTS_AT_ONCE = 128
_NDCG = "watch.ndcg"
_NUMBERS = ("looks", "n_worse")
Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Best:
    ndcg: Scores  # [V]
    weights: dict[str, Tensor]


class TowerWatch:
    """The best weights so far, and whether later ones got worse.

    Args:
        sequences: all histories.
        moments: [V] events that the towers do not learn from; none watches nothing.
        measures: whether this process is the one that measures; the others are told.
        tell: sums a tensor over all processes, in place.
    """

    def __init__(
        self,
        sequences: Sequences,
        moments: NDArray[np.int64],
        *,
        measures: bool = True,
        tell: Callable[[Tensor], None] = lambda tensor: None,
    ) -> None:
        self._sequences = sequences
        self._moments = moments
        self._measures = measures
        self._tell = tell
        self._looks = 0
        self._n_worse = 0
        self._best: _Best | None = None
        self._last: Scores = np.zeros(0, np.float32)

    def is_due(self, share_done: float) -> bool:
        """Whether it is time for another look."""
        return len(self._moments) > 0 and _looks_by(share_done) > self._looks

    def look(self, model: TwoTower, share_done: float) -> bool:
        """Measure the model if that is due; whether training should end."""
        if not self.is_due(share_done):
            return False
        self._looks = _looks_by(share_done)
        self._last = self._measure(model)
        if self._best is None or self._last.mean() >= self._best.ndcg.mean():
            weights = {name: value.clone() for name, value in model.state_dict().items()}
            self._best, self._n_worse = _Best(self._last, weights), 0
        else:
            self._n_worse = self._n_worse + 1 if self._is_worse(_TOO_FAR) else 0
        return self._n_worse >= _WORSE_LOOKS

    def keep_best(self, model: TwoTower) -> dict[str, float]:
        """Give the model its best weights, unless only chance makes them better than the last."""
        if self._best is None:
            return {}
        if self._is_worse(n_errors=_SURE):
            model.load_state_dict(self._best.weights)
            return {"tower_ndcg@10": float(self._best.ndcg.mean()), "tower_overfitted": 1.0}
        return {"tower_ndcg@10": float(self._last.mean()), "tower_overfitted": 0.0}

    def state(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """What a checkpoint must hold."""
        if self._best is None:
            return {}, {}
        tensors = {f"watch.{name}": value for name, value in self._best.weights.items()}
        tensors[_NDCG] = torch.from_numpy(np.stack([self._best.ndcg, self._last]))
        return tensors, {"looks": float(self._looks), "n_worse": float(self._n_worse)}

    def resume(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, float]) -> None:
        """Go on from what `state` answered."""
        if _NDCG not in tensors:
            return
        best, self._last = tensors[_NDCG].numpy()
        weights = {
            name.removeprefix("watch."): value
            for name, value in tensors.items()
            if name.startswith("watch.") and name != _NDCG
        }
        self._best = _Best(best, weights)
        self._looks, self._n_worse = (int(numbers[name]) for name in _NUMBERS)

    def _is_worse(self, by: float = 0.0, n_errors: float = 1.0) -> bool:
        """Whether the last look is a share below the best, and so many standard errors."""
        assert self._best is not None
        drop = self._best.ndcg - self._last
        if len(drop) < 2 or drop.mean() <= by * self._best.ndcg.mean():
            return False
        return bool(drop.mean() > n_errors * drop.std(ddof=1) / len(drop) ** 0.5)

    def _measure(self, model: TwoTower) -> Scores:
        """NDCG@10 of exact retrieval at each moment, [V], the same in every process."""
        found = torch.zeros(len(self._moments))
        if self._measures:
            found = torch.from_numpy(ndcg_at(model, self._sequences, self._moments))
        self._tell(found)
        return found.numpy()


def _looks_by(share_done: float) -> int:
    return int(min(share_done, 1.0) * LOOKS)


def ndcg_at(model: TwoTower, sequences: Sequences, moments: NDArray[np.int64]) -> Scores:
    """NDCG@10 of each moment's item among all the user had not met, by its history alone, [V]."""
    was_training = model.training
    model.eval()
    vectors = torch.from_numpy(model.item_vectors())
    size = max(1, min(_MOMENTS_AT_ONCE, _LOGITS_AT_ONCE // len(vectors)))
    parts = [
        _ndcg_of_chunk(model, sequences, moments[start : start + size], vectors)
        for start in range(0, len(moments), size)
    ]
    model.train(was_training)
    return np.concatenate(parts)


def _ndcg_of_chunk(
    model: TwoTower, sequences: Sequences, moments: NDArray[np.int64], vectors: Tensor
) -> Scores:
    begins = sequences.offsets[np.searchsorted(sequences.offsets, moments, side="right") - 1]
    lengths = np.minimum(moments - begins, model.config.history_length)
    starts = moments - lengths
    places = starts[:, None] + np.arange(int(lengths.max(initial=0)))
    is_event = places < moments[:, None]
    places = np.where(is_event, places, 0)
    gaps = np.where(is_event & (places != starts[:, None]), sequences.gaps[places], 0)
    with torch.inference_mode():
        states = model.user.last_state(
            vectors[torch.from_numpy(np.where(is_event, sequences.rows[places], 0)).long()],
            torch.from_numpy(np.where(is_event, sequences.kinds[places], 0)).long(),
            torch.from_numpy(gaps).long(),
            torch.from_numpy(lengths),
        )
        logits = states @ vectors.T
    scores = logits.numpy()
    own = scores[np.arange(len(moments)), sequences.rows[moments]].copy()
    for row, (begin, moment) in enumerate(zip(begins.tolist(), moments.tolist(), strict=True)):
        scores[row, sequences.rows[begin:moment]] = -np.inf
    above = (scores > own[:, None]).sum(1)
    # Towers that lost themselves score everything alike: half of what ties stands above.
    equal = (scores == own[:, None]).sum(1) - 1
    ranks = np.maximum(1 + above + equal // 2, 1)
    is_found = np.isfinite(own) & (ranks <= _PLACES)
    return np.where(is_found, 1 / np.log2(ranks + 1), 0.0).astype(np.float32)
