"""Training survives SIGKILL: the next run goes on, and ends where an unbroken one does."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import load_file

pytestmark = [pytest.mark.integration, pytest.mark.ray]

ROOT = Path(__file__).resolve().parents[2]
KILLED_AT_STEP = 40
N_WORKERS = 2
SCRIPT = """
import os, signal, sys
from pathlib import Path
import numpy as np
from recsys.settings import Settings
from train_app.learning.checkpoints import CheckpointFolder
from train_app.examples.interactions import interactions_from_columns
from train_app.learning.train_joint import train_models

workdir, kill_at, n_workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rng = np.random.default_rng(0)
n_users, size, n_items = 60, 24, 40
users = np.repeat([f"u{u}" for u in range(n_users)], size)
walk = (np.repeat(np.arange(n_users) * 7, size) + np.tile(np.arange(size), n_users)) % n_items
times = np.tile(np.arange(size) * 60_000, n_users)
train = interactions_from_columns(
    users.tolist(), [f"i{i}" for i in walk], ["view"] * len(walk), times
)
settings = Settings.model_validate({
    "train": {
        "n_workers": n_workers, "n_threads": 1, "precision": "float32", "checkpoint_every_s": 1e-6,
        "towers": {
            "embedding_dim": 16, "n_layers": 1, "history_length": 10, "batch_size": 4,
            "epochs": 5, "max_minutes": 60, "learning_rate": 0.003, "dropout": 0.0,
            "catch_up": 0.0 if n_workers else 0.2,
        },
        "scorer": {"epochs": 1, "hidden_dims": [16, 8], "batch_size": 32},
    }
})
written = CheckpointFolder.write
def write(self, checkpoint):
    path = written(self, checkpoint)
    if checkpoint.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return path
CheckpointFolder.write = write
train_models(train, settings, workdir, warm_start=None, report=lambda label, share: None)
"""


def start_training(
    workdir: Path, *, kill_at: int = -1, n_workers: int = 0
) -> subprocess.Popen[bytes]:
    """Train in a process of its own, which kills itself after the checkpoint of step `kill_at`."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_WAIT_POLICY": "PASSIVE",
        "RAY_AUTH_MODE": "disabled",
    }
    command = [sys.executable, "-c", SCRIPT, str(workdir), str(kill_at), str(n_workers)]
    return subprocess.Popen(command, env=environment)


def train_in_process(workdir: Path, *, kill_at: int = -1) -> int:
    """Train to the end; the exit status."""
    return start_training(workdir, kill_at=kill_at).wait(timeout=240)


def resumed_at(workdir: Path) -> float:
    """The step that a finished training says it started from."""
    return float(json.loads((workdir / "training.json").read_text())["tower_resumed_at_step"])


def assert_same_models(found: Path, expected: Path, atol: float) -> None:
    """Every weight of both towers' files."""
    for name in ("item_vectors", "user_tower"):
        theirs = load_file(expected / f"{name}.safetensors")
        for tensor, values in load_file(found / f"{name}.safetensors").items():
            np.testing.assert_allclose(values, theirs[tensor], atol=atol, err_msg=tensor)


def kill_a_worker(training: subprocess.Popen[bytes], workdir: Path) -> None:
    """SIGKILL one of the training's Ray Train workers, once there is a checkpoint."""
    while not list((workdir / "checkpoints").glob("*.safetensors")):
        with contextlib.suppress(subprocess.TimeoutExpired):
            status = training.wait(timeout=0.02)
            pytest.fail(f"training ended with {status} before its first checkpoint")
    workers = [
        process
        for process in psutil.Process(training.pid).children(recursive=True)
        if "TrainWorker" in " ".join(process.cmdline())
    ]
    assert len(workers) == N_WORKERS
    workers[0].kill()


def test_a_killed_training_resumes_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    """SIGKILL in the middle; the next run starts from the killed one's step, not from zero."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert train_in_process(whole) == 0
    assert resumed_at(whole) == 0
    assert train_in_process(killed, kill_at=KILLED_AT_STEP) == -signal.SIGKILL
    assert not (killed / "towers.json").exists()
    assert train_in_process(killed) == 0
    assert resumed_at(killed) == KILLED_AT_STEP
    assert_same_models(killed, whole, atol=1e-5)
    assert not (killed / "checkpoints").exists()


def test_a_killed_ray_worker_is_replaced_and_the_training_goes_on(tmp_path: Path) -> None:
    """Two workers, one of them killed: the same towers as one process learns, resumed midway."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    training = start_training(together, n_workers=N_WORKERS)
    try:
        kill_a_worker(training, together)
        assert train_in_process(alone) == 0
        assert training.wait(timeout=240) == 0
    finally:
        training.kill()
    assert resumed_at(together) > 0
    assert_same_models(together, alone, atol=0.02)
