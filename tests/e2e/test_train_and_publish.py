"""From engagements to a published bundle with the real models, through a kill in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundles.golden import check_golden, read_golden
from recsys.bundles.registry import Registry
from recsys.settings import Settings
from recsys.stages import load_stage, stage_names

pytestmark = pytest.mark.e2e

N_USERS, N_ITEMS, N_GROUPS = 150, 60, 6


def a_history_file(path: Path) -> Path:
    """Users who walk through their own group of items in order: easy to learn, hard by count."""
    rng = np.random.default_rng(0)
    lines = ["user,item,when,what"]
    start_s = 1_700_000_000
    for step in range(9):
        for user in range(N_USERS):
            group = user % N_GROUPS
            place = (user // N_GROUPS + step) % (N_ITEMS // N_GROUPS)
            kind = "purchase" if rng.random() < 0.2 else "click"
            lines.append(f"u{user},i{group + N_GROUPS * place},{start_s},{kind}")
            start_s += 60
    path.write_text("\n".join(lines) + "\n")
    return path


def small_settings(data_dir: Path) -> Settings:
    """Towers that learn the walk in seconds on one thread, checkpointed all the time."""
    return Settings.model_validate(
        {
            "data_dir": data_dir,
            "retrieval": {"n_candidates": 30},
            "train": {
                "n_threads": 1,
                "nice": 0,
                "checkpoint_every_s": 0.05,
                "towers": {
                    "embedding_dim": 16,
                    "n_layers": 1,
                    "n_heads": 1,
                    "history_length": 16,
                    "n_negatives": 0,
                    "batch_size": 16,
                    "learning_rate": 0.01,
                    "epochs": 120,
                    "max_minutes": 2.0,
                },
                "scorer": {"epochs": 1, "max_minutes": 0.5},
            },
        }
    )


def command(settings_file: Path, *arguments: str) -> list[str]:
    """A command line of the child process, which answers one JSON document."""
    verb, *rest = arguments
    base = [sys.executable, "-m", "train_app", verb, "--settings", str(settings_file), "--json"]
    return base + rest


def answer_of(settings_file: Path, *arguments: str) -> dict[str, Any]:
    """The JSON document of a verb that succeeds."""
    done = subprocess.run(
        command(settings_file, *arguments), capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def kill_while_training(settings_file: Path, data_dir: Path) -> None:
    """Start a training and end it with SIGKILL once it has written a checkpoint."""
    child = subprocess.Popen(
        command(settings_file, "train", "--publish"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline_s = time.monotonic() + 120
    while child.poll() is None and time.monotonic() < deadline_s:
        if any((data_dir / "training").glob("*/models/checkpoints/*/*")):
            break
        try:
            child.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    child.send_signal(signal.SIGKILL)
    assert child.wait(timeout=30) == -signal.SIGKILL


@pytest.mark.timeout(600)
def test_history_becomes_a_verified_bundle_through_a_kill(tmp_path: Path) -> None:
    """Import, a training that is killed, the same command again: one good bundle is published."""
    data_dir = tmp_path / "var"
    settings = small_settings(data_dir)
    settings_file = tmp_path / "settings.json"
    settings_file.write_text(settings.model_dump_json())
    history = a_history_file(tmp_path / "history.csv")
    mapping = "user_id=user,item_id=item,timestamp=when,kind=what"
    imported = answer_of(settings_file, "import", str(history), "--map", mapping)
    assert imported["n_new"] == 9 * N_USERS

    kill_while_training(settings_file, data_dir)
    result = answer_of(settings_file, "train", "--publish")

    assert "resumed after an interruption" in result["notes"]
    assert result["gate"]["passed"]
    methods = result["evaluation"]["methods"]
    page, popularity = methods["page"]["NDCG@10"], methods["popularity"]["NDCG@10"]
    assert page["low"] > 2 * popularity["high"]
    assert not (data_dir / "training").exists()
    registry = Registry(settings.registry_location)
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == [result["bundle_id"]]
    directory = registry.fetch(result["bundle_id"], tmp_path / "cache")
    manifest = registry.manifest(result["bundle_id"])
    golden = read_golden(directory)
    for name in stage_names(manifest.n_shards):
        check_golden(name, load_stage(name, directory, manifest, settings), golden)
    assert sorted(manifest.actions) == ["click", "purchase"]

    table = answer_of(settings_file, "evaluate", result["bundle_id"])
    assert table["methods"]["page"]["NDCG@10"] == pytest.approx(page)
