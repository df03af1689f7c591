"""Reads users' states without holding up the event loop, and never for longer than allowed.

Knows where a read may wait: a server is asked from a thread, a file in this process at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from recsys.data_settings import FeatureSettings
from recsys.errors import StoreError
from recsys.stores.features.feature_store import FeatureStore
from recsys.types import UserState

N_THREADS = 4
"""Reads under way at once: the micro-batches in flight of a few bundles."""


class UserReads:
    """The users of a batch, read as the settings say.

    Args:
        features: safe to read from several threads.
    """

    def __init__(self, features: FeatureStore, settings: FeatureSettings) -> None:
        self._features = features
        self._timeout_ms = settings.redis_timeout_ms
        # A thread waits for the interpreter after every row of SQLite while the loop is busy:
        # a file is read faster than that. A server is worth it, as it may not answer.
        self._threads = (
            ThreadPoolExecutor(N_THREADS, thread_name_prefix="features")
            if settings.backend == "redis"
            else None
        )

    async def read(self, user_ids: Sequence[str]) -> list[UserState]:
        """The states in the order asked for.

        Raises:
            StoreError: the store is away, or did not answer in time.
        """
        if self._threads is None:
            return self._features.read_users(user_ids)
        loop = asyncio.get_running_loop()
        read = loop.run_in_executor(self._threads, self._features.read_users, user_ids)
        # Unlike `asyncio.timeout`, this takes an answer that came while the loop was busy.
        await asyncio.wait([read], timeout=self._timeout_ms / 1000)
        if read.done():
            return read.result()
        read.cancel()
        raise StoreError(f"the feature store did not answer within {self._timeout_ms} ms")
