"""Where machine code is kept between processes: compiling it takes longer than all else at a start.

It is pickled, so it is only ever read from a folder that nobody but this user can write to.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent


def kept_code_folder() -> Path | None:
    """The folder for these sources, made where it is not there; None where there can be none.

    Beside the sources. Where they are read only, as in an image, a copy in the temporary folder,
    so that what was compiled with the image serves all that start from it.
    """
    digest = _digest()
    beside = _SOURCES / "__pycache__" / f"machine-code-{digest}"
    try:
        beside.mkdir(mode=0o755, parents=True, exist_ok=True)
        if _is_closed(beside) and os.access(beside, os.W_OK):
            return beside
    except OSError:
        pass
    try:
        return _private_copy(beside, f"flywheel-machine-code-{os.getuid()}-{digest}")
    except OSError:
        return None


def _digest() -> str:
    """Changes with any of the sources: a function is not compiled anew where only one it calls,
    of another file, has changed."""
    found = hashlib.sha256()
    for path in sorted(_SOURCES.glob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def _private_copy(source: Path, name: str) -> Path:
    copy = Path(tempfile.gettempdir()) / name
    if not copy.exists():
        staging = Path(tempfile.mkdtemp(prefix=f"{name}-"))
        if source.is_dir() and _is_closed(source):
            shutil.copytree(source, staging, dirs_exist_ok=True)
            staging.chmod(0o700)
        try:
            staging.rename(copy)
        except OSError:  # another process was first
            shutil.rmtree(staging, ignore_errors=True)
    if not _is_closed(copy):
        return Path(tempfile.mkdtemp(prefix=f"{name}-"))
    return copy


def _is_closed(folder: Path) -> bool:
    """Whether only this user can write to it, or whoever can write the sources themselves."""
    found = folder.lstat()
    owners = {os.getuid(), _SOURCES.stat().st_uid}
    return folder.is_dir() and found.st_uid in owners and not found.st_mode & 0o022
