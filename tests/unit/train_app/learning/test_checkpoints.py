"""Checkpoints: whole or not at all, and never those of another run."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from train_app.learning.checkpoints import Checkpoint, CheckpointFolder, run_key


def a_checkpoint(step: int) -> Checkpoint:
    """A checkpoint that can be told by its step."""
    return Checkpoint(step, {"weights": torch.full((3,), float(step))}, {"elapsed_s": step / 2})


def test_the_newest_checkpoint_comes_back_as_written(tmp_path: Path) -> None:
    """Tensors, numbers and step; no more than two files are kept."""
    folder = CheckpointFolder(tmp_path / "new", "run")
    assert folder.newest() is None
    for step in (5, 10, 200):
        folder.write(a_checkpoint(step))
    found = folder.newest()
    assert found is not None
    assert (found.step, found.numbers) == (200, {"elapsed_s": 100.0})
    assert found.tensors["weights"].tolist() == [200.0] * 3
    assert len(list((tmp_path / "new").iterdir())) == 2


@pytest.mark.parametrize("harm", ["truncated", "flipped", "empty"])
def test_a_harmed_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, harm: str) -> None:
    """A checkpoint is believed only if its bytes match its name."""
    folder = CheckpointFolder(tmp_path, "run")
    folder.write(a_checkpoint(1))
    path = folder.write(a_checkpoint(2))
    data = bytearray(path.read_bytes())
    if harm == "flipped":
        data[-1] ^= 1
    path.write_bytes(b"" if harm == "empty" else data[:-4] if harm == "truncated" else data)
    found = folder.newest()
    assert found is not None
    assert found.step == 1
    folder.write(a_checkpoint(3))
    found = folder.newest()
    assert found is not None
    assert found.step == 3


def test_a_draft_that_was_never_finished_is_not_read(tmp_path: Path) -> None:
    """A kill while writing leaves a draft, which the next write removes."""
    folder = CheckpointFolder(tmp_path, "run")
    path = folder.write(a_checkpoint(1))
    draft = tmp_path / f".{path.name}.1.draft"
    draft.write_bytes(path.read_bytes()[:100])
    found = folder.newest()
    assert found is not None
    assert found.step == 1
    folder.write(a_checkpoint(2))
    assert not draft.exists()


def test_checkpoints_of_another_run_are_not_resumed(tmp_path: Path) -> None:
    """Other data, settings or seed: another run, even if the old one was further."""
    CheckpointFolder(tmp_path, "old").write(a_checkpoint(900))
    folder = CheckpointFolder(tmp_path, "new")
    assert folder.newest() is None
    folder.write(a_checkpoint(1))
    found = folder.newest()
    assert found is not None
    assert found.step == 1


def test_a_run_key_changes_with_any_input_and_with_nothing_else() -> None:
    """The order of facts does not matter, their values do."""
    assert run_key({"seed": 1, "data": "x"}) == run_key({"data": "x", "seed": 1})
    assert run_key({"seed": 1}) != run_key({"seed": 2})
