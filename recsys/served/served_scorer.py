"""The scorer of a bundle as it answers requests: the numbers of `CandidateScorer`, made faster.

Legend: B requests, C candidates, D width, A actions.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recsys.kernels.scorer_arrays import fill_candidates, fill_estimates, fill_events
from recsys.scorer import CandidateScorer
from recsys.scorer_network import N_RECENT, ScorerConfig, ScorerNetwork
from recsys.served.scorer_session import BIAS, CANDIDATES, CONTEXT, RECENT, USER, scorer_session
from recsys.tower_networks import GAP_BOUNDS_MS
from recsys.types import Batch, FloatArray, RowArray


class ServedScorer:
    """Candidates to estimates, NumPy in and out.

    Args:
        scorer: at weights that change no more.
        n_threads: that one batch may use.
    """

    def __init__(self, scorer: CandidateScorer, n_threads: int) -> None:
        network, self._config = scorer.network, scorer.config
        self._scorer = scorer
        self._vectors: FloatArray = scorer.vectors.numpy()
        self._popularity: FloatArray = scorer.popularity.numpy().astype(np.float32)
        self._event_tables = (
            _array(network.kind_bias),
            _array(network.place_bias),
            _array(network.kind_values),
            _array(network.gap_values),
        )
        self._bounds_ms = np.array(GAP_BOUNDS_MS, np.int64)
        self._calibration = _calibration(self._config, network)
        self._actions = _actions(self._config)
        self._n_columns = self._config.embedding_dim + self._config.n_side + 2
        self._session = scorer_session(network, n_threads)

    def score(self, batch: Batch) -> Batch:
        """See `CandidateScorer.score`.

        Raises:
            IndexError: a request names an item that there is no vector of.
        """
        rows = np.ascontiguousarray(batch["rows"], np.int32)
        n_actions = len(self._actions)
        answer: Batch = {
            "retrieval_scores": np.empty(rows.shape, np.float32),
            "probabilities": np.empty((*rows.shape, n_actions), np.float32),
            "utility": np.empty(rows.shape, np.float32),
        }
        if not rows.size:
            return answer
        chances = self._scorer.chances(batch)
        inputs = self._inputs(batch, rows, chances, answer["retrieval_scores"])
        output = self._session.run(inputs).reshape(*rows.shape, 1 + n_actions)
        fill_estimates(
            rows,
            answer["retrieval_scores"],
            output,
            chances,
            self._calibration,
            self._actions,
            answer["probabilities"],
            answer["utility"],
        )
        return answer

    def _inputs(
        self, batch: Batch, rows: RowArray, chances: FloatArray, retrieval_scores: FloatArray
    ) -> dict[str, FloatArray]:
        config = self._config
        items = np.ascontiguousarray(batch["items"], np.int32)
        user_emb = np.ascontiguousarray(batch["user_emb"], np.float32)
        candidates = np.empty((*rows.shape, self._n_columns), np.float32)
        n_items = len(self._vectors)
        if int(items.max(initial=-1)) >= n_items or not fill_candidates(
            rows,
            user_emb,
            np.ascontiguousarray(batch["sources"], np.int8),
            np.ascontiguousarray(batch["ranks"], np.int32),
            chances,
            self._vectors,
            self._popularity,
            config.vector_scale,
            config.score_center,
            config.score_spread,
            candidates,
            retrieval_scores,
        ):
            raise IndexError(f"a request names an item beyond the {n_items} of the scorer")
        n_events = min(items.shape[1], N_RECENT) + 1
        shape = (len(rows), n_events)
        recent = np.empty((*shape, config.embedding_dim), np.float32)
        bias = np.empty(shape, np.float32)
        context = np.empty((*shape, config.hidden_dims[0]), np.float32)
        fill_events(
            items,
            np.ascontiguousarray(batch["kinds"], np.uint8),
            np.ascontiguousarray(batch["ages_s"], np.float64),
            self._vectors,
            config.vector_scale,
            *self._event_tables,
            self._bounds_ms,
            recent,
            bias,
            context,
        )
        user = user_emb[:, None] * np.float32(config.user_scale)
        return {
            USER: user,
            CANDIDATES: candidates,
            RECENT: recent,
            BIAS: bias[:, None],
            CONTEXT: context,
        }


def _calibration(config: ScorerConfig, network: ScorerNetwork) -> np.ndarray:
    """As `fill_estimates` reads it."""
    return np.array(
        [
            config.score_center,
            max(network.score_gain.item(), 1e-3),
            network.chance_gain.item() if network.reads_successors else 0.0,
            config.blend,
            config.slope,
            config.offset,
            config.acted_rate,
        ]
    )


def _actions(config: ScorerConfig) -> np.ndarray:
    """Log odds, trust, whether negative, and utility weight of each action, [A, 4]."""
    columns = (
        config.action_log_odds,
        config.action_trust,
        config.is_negative,
        config.utility_weights,
    )
    return np.ascontiguousarray(np.array(columns, np.float64).T)


def _array(tensor: Tensor) -> FloatArray:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)
