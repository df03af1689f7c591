"""Samples of whole moments: the true item, what retrieval proposed, and draws from all the rest.

A scorer's example has only what retrieval proposed. To train both stages as one, the true item must
be there when retrieval missed it, and the rest of the catalogue by a few that stand for it.
Legend: E moments, C candidates, T draws, S = 1 + C + T columns, the true item first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recsys.types import NO_ROW, Batch, FloatArray, RowArray, Source
from train_app.learning.ranking.scorer_examples import ScorerExamples

_CHUNK = 256


@dataclass(frozen=True, slots=True)
class PageSamples:
    """Moments with a sample of the catalogue each."""

    history: Batch  # "items", "kinds", "ages_s" [E, L]
    rows: RowArray  # [E, S], -1 padding; column 0 is the true item
    sources: NDArray[np.int8]  # [E, S]
    ranks: RowArray  # [E, S], for draws an estimate
    weights: FloatArray  # [E, S] for how many items each stands, 0 padding
    before: FloatArray  # [E, S] retrieval scores of the towers that proposed

    def __len__(self) -> int:
        """Number of moments."""
        return len(self.rows)

    def pick(self, index: NDArray[np.int64]) -> PageSamples:
        """The moments at `index`."""
        return PageSamples(
            {name: values[index] for name, values in self.history.items()},
            self.rows[index],
            self.sources[index],
            self.ranks[index],
            self.weights[index],
            self.before[index],
        )


def page_samples(
    examples: ScorerExamples,
    targets: RowArray,
    vectors: FloatArray,
    n_tail: int,
    rng: np.random.Generator,
) -> PageSamples:
    """Samples of the moments of `examples`.

    Args:
        examples: what retrieval proposed at each moment.
        targets: [E] row of each moment's true item.
        vectors: [N, D] item vectors that retrieval proposed with.
        n_tail: T, draws with replacement from the catalogue.
        rng: of the draws.
    """
    parts = [
        _sample_chunk(
            examples.pick(np.arange(start, min(start + _CHUNK, len(examples)))),
            targets[start : start + _CHUNK],
            vectors,
            n_tail,
            rng,
        )
        for start in range(0, max(len(examples), 1), _CHUNK)
    ]
    return PageSamples(
        history=examples.history,
        rows=np.concatenate([part.rows for part in parts]),
        sources=np.concatenate([part.sources for part in parts]),
        ranks=np.concatenate([part.ranks for part in parts]),
        weights=np.concatenate([part.weights for part in parts]),
        before=np.concatenate([part.before for part in parts]),
    )


def _sample_chunk(
    examples: ScorerExamples,
    targets: RowArray,
    vectors: FloatArray,
    n_tail: int,
    rng: np.random.Generator,
) -> PageSamples:
    n_moments, n_found = examples.rows.shape
    drawn = rng.integers(len(vectors), size=(n_moments, n_tail)).astype(np.int32)
    rows = np.concatenate([targets[:, None], examples.rows, drawn], axis=1).astype(np.int32)
    weights = np.ones(rows.shape, np.float32)
    weights[:, 1 : n_found + 1] = (examples.rows >= 0) & (examples.rows != targets[:, None])
    weights[:, n_found + 1 :] = _tail_weights(examples, targets, drawn, len(vectors))
    before = np.einsum(
        "ed,esd->es", examples.user_emb, vectors[np.maximum(rows, 0)], optimize=True
    ).astype(np.float32)
    sources = np.full(rows.shape, Source.INDEX, np.int8)
    sources[:, 1 : n_found + 1] = examples.sources
    ranks = np.zeros(rows.shape, np.int32)
    ranks[:, 1 : n_found + 1] = examples.ranks
    ranks[:, n_found + 1 :] = n_found + _ranks_below(
        before[:, n_found + 1 :], before[:, n_found + 1 :], weights[:, n_found + 1 :]
    )
    _place_true_item(examples, targets, sources, ranks, before, weights)
    return PageSamples(examples.history, rows, sources, ranks, weights, before)


def _tail_weights(
    examples: ScorerExamples, targets: RowArray, drawn: RowArray, n_items: int
) -> FloatArray:
    """[E, T] For how many items of the rest each draw stands; 0 for what is not of the rest."""
    is_rest = np.ones((len(drawn), n_items + 1), np.bool_)  # the last column is where -1 lands
    moments = np.arange(len(drawn))
    np.put_along_axis(is_rest, examples.rows.astype(np.int64), False, axis=1)
    np.put_along_axis(is_rest, examples.history["items"].astype(np.int64), False, axis=1)
    is_rest[moments, targets] = False
    is_rest[:, -1] = False
    counted = is_rest[moments[:, None], drawn]
    share = is_rest.sum(1) / np.maximum(counted.sum(1), 1)
    return np.asarray(counted * share[:, None], np.float32)


def _ranks_below(scores: FloatArray, own: FloatArray, weights: FloatArray) -> RowArray:
    """[E, n] How many items of the rest stand above each of `own`, by what the draws stand for."""
    above = (scores[:, None, :] > own[:, :, None]) * weights[:, None, :]
    return np.asarray(above.sum(2).round(), np.int32)


def _place_true_item(
    examples: ScorerExamples,
    targets: RowArray,
    sources: NDArray[np.int8],
    ranks: RowArray,
    before: FloatArray,
    weights: FloatArray,
) -> None:
    """Give the true item, column 0, the source and rank it has, or would have had."""
    n_found = examples.rows.shape[1]
    is_true = (examples.rows == targets[:, None]) & (examples.rows != NO_ROW)
    moments = np.flatnonzero(is_true.any(1))
    columns = is_true.argmax(1)[moments]
    tail = slice(n_found + 1, None)
    missed = _ranks_below(before[:, tail], before[:, :1], weights[:, tail])[:, 0]
    ranks[:, 0] = n_found + missed
    ranks[moments, 0] = examples.ranks[moments, columns]
    sources[moments, 0] = examples.sources[moments, columns]
