"""What the scheduler looks at before it decides: the lake's growth, and whether somebody trains."""

from __future__ import annotations

import os
from pathlib import Path

from recsys.settings import Settings
from train_app.lake.lake_tables import Lake, LakeTable
from train_app.scheduling.due import Seen


class Sights:
    """Reads the counts of the lake's commits, not its rows."""

    def __init__(self, settings: Settings) -> None:
        self._lake = Lake(settings.lake_location)
        self._lock = settings.data_dir / "train.lock"
        self._table: LakeTable | None = None
        self._counted: tuple[int, int] = (-1, 0)

    def seen(self) -> Seen:
        """What is true now.

        Raises:
            StoreError: the lake cannot be read.
        """
        return Seen(self._n_engagements(), is_held(self._lock))

    def _n_engagements(self) -> int:
        if self._table is None:
            self._table = self._lake.find("engagements")
            if self._table is None:
                return 0
        else:
            self._table.refresh()
        if self._counted[0] != self._table.version:
            counts = self._table.delta.get_add_actions(flatten=True).column("num_records")
            self._counted = (self._table.version, sum(n or 0 for n in counts.to_pylist()))
        return self._counted[1]


def is_held(lock: Path, held_locks: Path = Path("/proc/locks")) -> bool:
    """Whether a process holds the lock of a file; False where the system does not say.

    Only looks: to try for the lock would keep out whoever tries at that moment.
    """
    try:
        found = lock.stat()
        held = held_locks.read_text()
    except OSError:
        return False
    place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(place in line.split() and "->" not in line for line in held.splitlines())
