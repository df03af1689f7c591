"""Odd files from import to training: the commands train, or refuse in one clear sentence."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
SMALL = {
    "FLYWHEEL__TRAIN__TOWERS__EMBEDDING_DIM": "8",
    "FLYWHEEL__TRAIN__TOWERS__N_LAYERS": "1",
    "FLYWHEEL__TRAIN__TOWERS__HISTORY_LENGTH": "8",
    "FLYWHEEL__TRAIN__TOWERS__MAX_MINUTES": "0",
    "FLYWHEEL__TRAIN__TOWERS__MAX_STEPS": "30",
    "FLYWHEEL__TRAIN__SCORER__EPOCHS": "1",
    "FLYWHEEL__TRAIN__N_THREADS": "1",
    "FLYWHEEL__TRAIN__CHECKPOINT_EVERY_S": "1e-6",
    "FLYWHEEL__GATE__MIN_RATIO_POPULARITY": "0",
}


def command(folder: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    """`python -m train_app ...` on a data directory below `folder`."""
    environment = {**os.environ, **SMALL, "FLYWHEEL__DATA_DIR": str(folder / "var"), **more}
    return subprocess.run(
        [sys.executable, "-m", "train_app", *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def a_file(folder: Path, n: int = 600, *, at: str = "{}", value: str = "1.0") -> Path:
    """A CSV of thirty users who each engage with forty items at random."""
    rng = np.random.default_rng(0)
    lines = ["user_id,item_id,timestamp,value"]
    for event in range(n):
        item = rng.integers(0, 40)
        lines.append(f"u{event % 30},i{item},{at.format(1_700_000_000 + 60 * event)},{value}")
    path = folder / "events.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_values_that_are_no_numbers_and_one_kind_still_make_a_bundle(tmp_path: Path) -> None:
    """Bad values are counted at the import; what is left trains and is published."""
    half = a_file(tmp_path)
    lines = half.read_text().splitlines()
    lines[1:61] = [line.rpartition(",")[0] + ",NaN" for line in lines[1:61]]
    half.write_text("\n".join(lines) + "\n")
    assert command(tmp_path, "import", str(half)).returncode == 0
    trained = command(tmp_path, "train", "--publish", "--json")
    assert trained.returncode == 0, trained.stderr
    document = json.loads(trained.stdout)
    assert document["published"]
    assert document["gate"]["passed"]
    assert {"reading the lake", "training the towers"} <= set(document["cost"]["phases"])


def test_times_that_are_all_equal_are_refused_with_what_is_needed(tmp_path: Path) -> None:
    """Exit code 6, one line, no traceback."""
    path = a_file(tmp_path, at="1700000000")
    assert command(tmp_path, "import", str(path)).returncode == 0
    refused = command(tmp_path, "train", "--publish")
    assert refused.returncode == 6
    last = refused.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert "engagements have the same time" in last
    assert "import data with a timestamp column" in last
    assert "Traceback" not in refused.stderr


def test_a_training_that_diverges_says_where_and_goes_on_with_a_lower_rate(tmp_path: Path) -> None:
    """A rate no model survives; with a sound one the same command ends with a bundle."""
    assert command(tmp_path, "import", str(a_file(tmp_path))).returncode == 0
    rate = "FLYWHEEL__TRAIN__TOWERS__LEARNING_RATE"
    diverged = command(tmp_path, "train", "--publish", **{rate: "1e30"})
    assert diverged.returncode == 1
    last = diverged.stderr.strip().splitlines()[-1]
    assert "training the towers stopped at step" in last
    assert "train.towers.learning_rate" in last
    mended = command(tmp_path, "train", "--publish", **{rate: "1e-3"})
    assert "going on with the run that was interrupted" in mended.stderr
    assert mended.returncode in (0, 6), mended.stderr
