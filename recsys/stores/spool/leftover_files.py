"""Files of the stores that wait for somebody: the spool's, and what was set aside as damaged."""

from __future__ import annotations

from pathlib import Path

from recsys.stores.spool.spool import REFUSED_NAME
from recsys.stores.spool.spool_file import SUFFIX

_ASIDE = ("*.corrupt-*", "spool/**/*.corrupt-*", f"spool/**/{REFUSED_NAME}")
_REPLACEABLE = ("*.unusable-*",)


def spool_files(data_dir: Path) -> list[Path]:
    """Files of events that wait for the broker."""
    return _found(data_dir, (f"spool/**/*{SUFFIX}",))


def set_aside_files(data_dir: Path) -> list[Path]:
    """Files with events that may be nowhere else: damaged ones, and what the broker refuses."""
    return _found(data_dir, _ASIDE)


def replaceable_files(data_dir: Path) -> list[Path]:
    """Files that were set aside and whose content has been computed anew."""
    return _found(data_dir, _REPLACEABLE)


def size_of(paths: list[Path]) -> int:
    """Bytes on the disk; a file that is gone by now has none."""
    n_bytes = 0
    for path in paths:
        try:
            n_bytes += path.stat().st_size
        except FileNotFoundError:
            continue
    return n_bytes


def _found(data_dir: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = {path for pattern in patterns for path in data_dir.glob(pattern)}
    return sorted(path for path in found if not path.name.endswith(("-wal", "-shm")))
