"""The user tower of a bundle as it answers requests: the numbers of `UserEncoder`, made faster.

Legend: B requests, L history length, T tokens, D width.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from recsys.kernels.tower_tokens import fill_tokens
from recsys.served.tower_session import NEWEST, TOKENS, UNSEEN, user_tower_session
from recsys.tower_networks import GAP_BOUNDS_MS
from recsys.two_tower import UserEncoder
from recsys.types import Batch, FloatArray


class ServedTower:
    """Histories to user embeddings, NumPy in and out.

    Args:
        encoder: at weights that change no more.
        n_threads: that one batch may use.
    """

    def __init__(self, encoder: UserEncoder, n_threads: int) -> None:
        tower = encoder.tower
        self._length = encoder.config.history_length
        self._vectors: FloatArray = encoder.vectors.numpy()
        self._scale = tower.scale
        self._tables = (
            _array(tower.start),
            _array(tower.kinds),
            _array(tower.gaps),
            _array(tower.transformer.positions),
        )
        self._bounds_ms = np.array(GAP_BOUNDS_MS, np.int64)
        self._session = user_tower_session(tower, n_threads)

    def encode(self, batch: Batch) -> FloatArray:
        """User embeddings [B, D] of "items", "kinds" and "ages_s", as `UserEncoder.encode`.

        Raises:
            IndexError: a history names an item that the tower has no vector of.
        """
        items = np.ascontiguousarray(batch["items"], np.int32)
        lengths = np.count_nonzero(items >= 0, axis=1)
        n_tokens = min(int(lengths.max(initial=0)), self._length) + 1
        n_requests = len(items)
        tokens = np.empty((n_requests, n_tokens, self._vectors.shape[1]), np.float32)
        newest = np.zeros((n_requests, 2, n_tokens), np.float32)
        unseen = np.empty((n_requests, 1, 2, n_tokens), np.float32)
        if not fill_tokens(
            items,
            np.ascontiguousarray(batch["kinds"], np.uint8),
            np.ascontiguousarray(batch["ages_s"], np.float64),
            self._vectors,
            *self._tables,
            self._scale,
            self._bounds_ms,
            tokens,
            newest,
            unseen,
        ):
            raise IndexError(
                f"a history names an item beyond the {len(self._vectors)} of the tower"
            )
        if not n_requests:
            return np.empty((0, self._vectors.shape[1]), np.float32)
        return self._session.run({TOKENS: tokens, NEWEST: newest, UNSEEN: unseen})


def _array(tensor: Tensor) -> FloatArray:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)
