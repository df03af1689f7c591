"""The same service in BentoML: everything in each of two workers, requests batched adaptively.

Run as `bentoml serve bench.bentoml_service:Recommend`; settings come from `BENCH_SETTINGS`, the
bundle's directory from `BENCH_BUNDLE`. What BentoML adds to a request and a benchmark needs not,
access log and metrics, is off.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import bentoml
import torch

from bench.one_process import OneProcess, slate_document
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from serve_app.log_writer import LogWriter

MAX_BATCH = 64
"""As `serve.max_batch`."""


@bentoml.service(
    name="recommend",
    workers=2,
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
)
class Recommend:
    """One of the workers."""

    def __init__(self) -> None:
        torch.set_num_threads(1)
        settings = Settings.model_validate_json(Path(os.environ["BENCH_SETTINGS"]).read_text())
        self._service = OneProcess(Path(os.environ["BENCH_BUNDLE"]), settings)
        log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
        self._writer = LogWriter(log, settings.events.max_queued)

    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH)  # type: ignore[untyped-decorator]
    async def recommend(self, user_ids: list[str]) -> list[dict[str, Any]]:
        """A slate per user; a request names one."""
        impressions = self._service.answer(user_ids)
        for impression in impressions:
            self._writer.offer(impression)
        return [slate_document(impression) for impression in impressions]
