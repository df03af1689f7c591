"""What a user would pick instead: everything in each worker of a FastAPI service under uvicorn.

Run as `uvicorn bench.fastapi_service:app --workers 2`; settings come from `BENCH_SETTINGS`, the
bundle's directory from `BENCH_BUNDLE`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI

from bench.one_process import OneProcess, slate_document
from recsys.settings import Settings
from recsys.stores.log.event_log import SqliteEventLog
from serve_app.log_writer import LogWriter

torch.set_num_threads(1)
settings = Settings.model_validate_json(Path(os.environ["BENCH_SETTINGS"]).read_text())
service = OneProcess(Path(os.environ["BENCH_BUNDLE"]), settings)
writer = LogWriter(
    SqliteEventLog(settings.log_path, settings.events.n_partitions), settings.events.max_queued
)
app = FastAPI()


@app.get("/v1/recommend")
async def recommend(user_id: str, k: int = 20) -> dict[str, Any]:
    """One slate."""
    impression = service.answer([user_id])[0]
    writer.offer(impression)
    return slate_document(impression, k)
