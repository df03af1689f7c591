"""The files below a directory: which there are, their checksums, and a durable write.

Knows no manifest.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from recsys.errors import BundleCorrupt


def regular_files(directory: Path) -> Iterator[str]:
    """Relative posix paths of all files below; a link or a special file is an error."""
    for folder, folders, files in os.walk(directory):
        for entry in (*folders, *files):
            path = Path(folder, entry)
            name = path.relative_to(directory).as_posix()
            if path.is_symlink():
                raise BundleCorrupt(f"{name} of bundle {directory.name} is a symbolic link")
            if entry in files:
                if not path.is_file():
                    raise BundleCorrupt(f"{name} of bundle {directory.name} is no regular file")
                yield name


def sha256_of(path: Path) -> str:
    """The checksum of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_durably(path: Path, text: bytes) -> None:
    """Write, fsync and rename, so that a reader sees the whole file or none of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
