"""The work directory of a run that may be killed: which steps are done, and one run at a time.

Knows files and locks; not what the steps do.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import DataError, StoreError
from recsys.types import Item
from train_app.examples.interactions import Interactions

_STEPS_DIR = "steps"
_ARRAYS_FILE = "interactions.npz"
_TABLES_FILE = "interactions.json"
_ARRAYS = ("offsets", "rows", "kind_ids", "timestamps_ms", "values", "is_prompted")


class RunDirectory:
    """Remembers finished steps with their results, so that a killed run goes on where it was."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            (path / _STEPS_DIR).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(
                f"work directory {path} cannot be made: {error.strerror}; "
                "check data_dir, its permissions and the space on its disk"
            ) from error

    def result(self, step: str) -> dict[str, Any] | None:
        """What a finished step left, `None` if it has not finished."""
        try:
            result: dict[str, Any] = json.loads(self._record(step).read_text())
        except FileNotFoundError:
            return None
        return result

    def finish(self, step: str, result: dict[str, Any]) -> dict[str, Any]:
        """Remember that a step finished; written whole or not at all."""
        _write_whole(self._record(step), json.dumps(result).encode())
        return result

    def clear(self) -> None:
        """Forget everything and begin anew."""
        self.remove()
        (self.path / _STEPS_DIR).mkdir(parents=True)

    def remove(self) -> None:
        """Delete the directory."""
        shutil.rmtree(self.path, ignore_errors=True)

    def _record(self, step: str) -> Path:
        return self.path / _STEPS_DIR / f"{step}.json"


@contextmanager
def one_at_a_time(lock_path: Path, what: str) -> Generator[None]:
    """Hold a lock that ends with the process, however it ends.

    Raises:
        DataError: another living process holds it; the message names its process id.
    """
    lock_path.parent.mkdir(parents=True, exist_ok=True)
    with lock_path.open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise DataError(
                f"{what} already runs as process {holder} on {lock_path.parent}; "
                "wait until it ends, or end it"
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def save_interactions(interactions: Interactions, directory: Path) -> None:
    """Write the engagements a run learns from, so that it goes on with the same ones."""
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {name: getattr(interactions, name) for name in _ARRAYS}
    with (directory / _ARRAYS_FILE).open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    tables = {
        "user_ids": interactions.user_ids,
        "kinds": interactions.kinds,
        "lineage": interactions.lineage,
        "items": [
            [i.item_id, i.title, i.categories, i.creator, i.created_ms, i.available]
            for i in interactions.items
        ],
    }
    _write_whole(directory / _TABLES_FILE, json.dumps(tables).encode())


def read_interactions(directory: Path) -> Interactions:
    """Read what `save_interactions` wrote."""
    tables = json.loads((directory / _TABLES_FILE).read_text())
    with np.load(directory / _ARRAYS_FILE, allow_pickle=False) as arrays:
        columns = {name: arrays[name] for name in _ARRAYS}
    return Interactions(
        user_ids=tables["user_ids"],
        items=[
            Item(item_id, title, tuple(categories), creator, created_ms, available)
            for item_id, title, categories, creator, created_ms, available in tables["items"]
        ],
        kinds=tuple(tables["kinds"]),
        lineage=tables["lineage"],
        **columns,
    )


def _write_whole(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
