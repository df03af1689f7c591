"""Training survives SIGKILL: the next run goes on, and ends where an unbroken one does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
KILLED_AT_STEP = 40
SCRIPT = """
import json, os, signal, sys
from pathlib import Path
import numpy as np
from recsys.settings import Settings
from train_app.checkpoints import CheckpointFolder
from train_app.interactions import interactions_from_columns
from train_app.train_joint import train_models
from train_app.train_towers import TowerTrainer

workdir, kill_at, n_workers, log = Path(sys.argv[1]), *map(int, sys.argv[2:4]), Path(sys.argv[4])
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
            "epochs": 2, "max_minutes": 60, "learning_rate": 0.01, "dropout": 0.1,
        },
        "scorer": {"epochs": 1, "hidden_dims": [16, 8], "batch_size": 32},
    }
})
first_resumed = TowerTrainer.resume
def resume(self, checkpoint):
    log.write_text(json.dumps(checkpoint.step))
    first_resumed(self, checkpoint)
TowerTrainer.resume = resume
written = CheckpointFolder.write
def write(self, checkpoint):
    path = written(self, checkpoint)
    if checkpoint.step == kill_at:
        os.kill(os.getpid(), signal.SIGKILL)
    return path
CheckpointFolder.write = write
train_models(train, settings, workdir, warm_start=None, report=lambda label, share: None)
"""


def train_in_process(workdir: Path, *, kill_at: int = -1, n_workers: int = 0) -> int:
    """Train in a process of its own, which kills itself after a step's checkpoint; its status."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "disabled",
        "OMP_WAIT_POLICY": "PASSIVE",
    }
    arguments = [str(workdir), str(kill_at), str(n_workers), str(workdir.parent / "resumed.json")]
    command = [sys.executable, "-c", SCRIPT, *arguments]
    return subprocess.run(command, env=environment, check=False, timeout=240).returncode


def test_a_killed_training_resumes_and_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    """SIGKILL in the middle; the next run starts from the killed one's step, not from zero."""
    assert train_in_process(tmp_path / "whole" / "models") == 0
    assert not (tmp_path / "whole" / "resumed.json").exists()
    killed = tmp_path / "killed" / "models"
    assert train_in_process(killed, kill_at=KILLED_AT_STEP) == -signal.SIGKILL
    assert not (killed / "towers.json").exists()
    assert train_in_process(killed) == 0
    assert json.loads((tmp_path / "killed" / "resumed.json").read_text()) == KILLED_AT_STEP
    for name in ("item_vectors", "user_tower", "scorer"):
        whole = load_file(tmp_path / "whole" / "models" / f"{name}.safetensors")
        resumed = load_file(killed / f"{name}.safetensors")
        for tensor, values in whole.items():
            np.testing.assert_allclose(resumed[tensor], values, atol=1e-5, err_msg=tensor)
    assert not (killed / "checkpoints").exists()
