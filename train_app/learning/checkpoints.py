"""Checkpoints of a training run: written whole or not at all, and checked when read.

A file is named by its step and the checksum of its bytes. Tensors and numbers only, no pickle.
Only writer of the folder it is given; knows nothing of what is trained.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

_KEPT = 2
"""The newest and the one before it, to fall back to."""
_DIGEST_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A moment of a run."""

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, float]


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        run_key: names the run's inputs; checkpoints of another run are not read, and are removed
            when this one writes.
    """

    def __init__(self, directory: Path, run_key: str) -> None:
        self._directory = directory
        self._run_key = run_key

    def write(self, checkpoint: Checkpoint) -> Path:
        """Add a checkpoint; when it returns, the file is durable."""
        self._directory.mkdir(parents=True, exist_ok=True)
        facts = {"run_key": self._run_key, "step": checkpoint.step, "numbers": checkpoint.numbers}
        tensors = {name: tensor.contiguous() for name, tensor in checkpoint.tensors.items()}
        data = save(tensors, metadata={"facts": json.dumps(facts)})
        digest = hashlib.sha256(data).hexdigest()[:_DIGEST_DIGITS]
        path = self._directory / f"{checkpoint.step:012d}-{digest}.safetensors"
        draft = self._directory / f".{path.name}.{os.getpid()}.draft"
        with draft.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        _sync_directory(self._directory)
        self._forget_older(path)
        return path

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint of this run, or None."""
        for path in sorted(self._directory.glob("*.safetensors"), reverse=True):
            checkpoint = self._read(path)
            if checkpoint is not None:
                return checkpoint
        return None

    def _read(self, path: Path) -> Checkpoint | None:
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGEST_DIGITS]
            if path.stem.rpartition("-")[2] != digest:
                return None
            with safe_open(path, framework="pt") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
                if facts.get("run_key") != self._run_key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # ruff: ignore[in-dict-keys]
        except (OSError, ValueError, SafetensorError):
            return None
        return Checkpoint(int(facts["step"]), tensors, dict(facts["numbers"]))

    def _forget_older(self, newest: Path) -> None:
        own = [path for path in sorted(self._directory.glob("*.safetensors")) if path <= newest]
        stale = [path for path in self._directory.glob("*.safetensors") if path > newest]
        for path in [*own[:-_KEPT], *stale, *self._directory.glob(".*.draft")]:
            path.unlink(missing_ok=True)


def run_key(facts: Mapping[str, object]) -> str:
    """A short name that changes with any of the run's inputs."""
    canonical = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
