"""The limit: the same numerics in two processes, in batches, without HTTP or logging.

Run as `python -m bench.bare_numerics SETTINGS BUNDLE SECONDS BATCH`; it prints slates per second.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

import torch

from bench.one_process import OneProcess
from recsys.settings import Settings


def main(settings_path: str, bundle: str, seconds: str, batch: str, n_users: str) -> None:
    """Answer batches for so many seconds."""
    torch.set_num_threads(1)
    settings = Settings.model_validate_json(Path(settings_path).read_text())
    service = OneProcess(Path(bundle), settings)
    draw = random.Random(0)
    size = int(batch)
    service.answer([str(draw.randrange(int(n_users))) for _ in range(size)])
    print("READY", flush=True)
    sys.stdin.readline()
    started = time.perf_counter()
    n_answered = 0
    while time.perf_counter() - started < float(seconds):
        users = [str(draw.randrange(int(n_users))) for _ in range(size)]
        n_answered += len(service.answer(users, seed=n_answered))
    print(n_answered / (time.perf_counter() - started), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:6])
