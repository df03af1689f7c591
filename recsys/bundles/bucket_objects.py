"""Objects under one prefix of a bucket: S3 and its like through obstore, the rest through fsspec.

Names are relative to the prefix, with `/` between their parts. Whatever a store raises is an
`OSError`; what is not there is a `FileNotFoundError`.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from recsys.bundles.bucket_reports import plain_place, plain_report
from recsys.errors import ConfigError

OBJECT_STORES = frozenset({"s3", "s3a", "gs", "az", "abfs", "abfss"})
"""Schemes of obstore, which shares library and environment variables with Delta Lake."""
_RETRIES: dict[str, Any] = {"max_retries": 4, "retry_timeout": timedelta(seconds=20)}
_CLIENT: dict[str, Any] = {"connect_timeout": "3s", "timeout": "10min"}
_CHUNK_BYTES = 8 * 1024**2


class BucketObjects(Protocol):
    """What a registry needs of a bucket."""

    def read(self, name: str) -> bytes:
        """The bytes of an object."""

    def download(self, name: str, target: Path) -> None:
        """Write an object into a file."""

    def upload(self, name: str, source: Path) -> None:
        """Put a file's bytes, over what is there."""

    def write(self, name: str, content: bytes) -> None:
        """Put bytes, over what is there."""

    def create(self, name: str, content: bytes) -> None:
        """Put bytes where nothing is yet; of several who try one succeeds, where the store can.

        Raises:
            FileExistsError: something is there.
        """

    def remove(self, name: str) -> None:
        """Delete an object; one that is not there is deleted."""

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""

    def names(self, folder: str = "") -> list[str]:
        """Every object whose name begins with `folder/`; all of them without it."""

    def sizes(self, folder: str = "") -> dict[str, int]:
        """The same, each with its bytes."""

    def modified_s(self, name: str) -> float | None:
        """Unix time in seconds of the last put; None where that cannot be told."""


def open_objects(url: str) -> BucketObjects:
    """The objects under a URL.

    Raises:
        ConfigError: the URL is of no store that can be opened.
    """
    scheme = url.partition("://")[0]
    try:
        return StoreObjects(url) if scheme in OBJECT_STORES else FileSystemObjects(url)
    except (ImportError, ValueError, OSError) as error:
        raise ConfigError(
            f"registry_url '{plain_place(url)}' cannot be opened: {plain_report(str(error))}; "
            "expected a directory, s3://, gs:// or az:// with credentials in the environment, "
            "or an fsspec URL whose driver is installed"
        ) from error


class StoreObjects:
    """Objects of S3, Google Cloud Storage or Azure.

    Endpoint, region and credentials come from the environment, as in `AWS_ENDPOINT_URL`.
    """

    def __init__(self, url: str) -> None:
        import obstore
        from obstore.store import from_url

        self._calls = obstore
        with _as_os_errors(url):
            # Options of ours replace those of the environment, this one included.
            plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() == "true"
            options: Any = {
                "client_options": _CLIENT | {"allow_http": plain},
                "retry_config": _RETRIES,
            }
            self._store = from_url(url, **options)

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        with _as_os_errors(name):
            return self._calls.get(self._store, name).bytes().to_bytes()

    def download(self, name: str, target: Path) -> None:
        """Write an object into a file, chunk by chunk."""
        with target.open("wb") as file, _as_os_errors(name):
            for chunk in self._calls.get(self._store, name).stream(min_chunk_size=_CHUNK_BYTES):
                file.write(chunk)

    def upload(self, name: str, source: Path) -> None:
        """Put a file's bytes, over what is there; a large one in parts."""
        with _as_os_errors(name):
            self._calls.put(self._store, name, source, chunk_size=_CHUNK_BYTES)

    def write(self, name: str, content: bytes) -> None:
        """Put bytes, over what is there."""
        with _as_os_errors(name):
            self._calls.put(self._store, name, content)

    def create(self, name: str, content: bytes) -> None:
        """Put bytes under the condition that nothing is there, which the store holds."""
        with _as_os_errors(name):
            self._calls.put(self._store, name, content, mode="create")

    def remove(self, name: str) -> None:
        """Delete an object."""
        with suppress(FileNotFoundError), _as_os_errors(name):
            self._calls.delete(self._store, name)

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        try:
            with _as_os_errors(name):
                self._calls.head(self._store, name)
        except FileNotFoundError:
            return False
        return True

    def names(self, folder: str = "") -> list[str]:
        """Every object below a folder."""
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Every object below a folder, with its bytes."""
        with _as_os_errors(folder):
            pages = self._calls.list(self._store, prefix=folder or None)
            return {str(entry["path"]): int(entry["size"]) for page in pages for entry in page}

    def modified_s(self, name: str) -> float | None:
        """When the store took it."""
        with _as_os_errors(name):
            return float(self._calls.head(self._store, name)["last_modified"].timestamp())


class FileSystemObjects:
    """Objects of a file system that fsspec knows."""

    def __init__(self, url: str) -> None:
        import fsspec

        self._files, root = fsspec.core.url_to_fs(url)
        self._root = str(root).rstrip("/")

    def read(self, name: str) -> bytes:
        """The bytes of an object."""
        content: bytes = self._files.cat_file(self._path(name))
        return content

    def download(self, name: str, target: Path) -> None:
        """Write an object into a file."""
        self._files.get_file(self._path(name), str(target))

    def upload(self, name: str, source: Path) -> None:
        """Put a file's bytes, over what is there."""
        self._files.put_file(str(source), self._made(name))

    def write(self, name: str, content: bytes) -> None:
        """Put bytes, over what is there."""
        self._files.pipe_file(self._made(name), content)

    def create(self, name: str, content: bytes) -> None:
        """Put bytes where nothing is; file systems without such a call look first."""
        if self.exists(name):
            raise FileExistsError(f"{self._path(name)} is there already")
        self._files.pipe_file(self._made(name), content)

    def remove(self, name: str) -> None:
        """Delete an object."""
        with suppress(FileNotFoundError):
            self._files.rm_file(self._path(name))

    def exists(self, name: str) -> bool:
        """Whether there is an object of that name."""
        self._files.invalidate_cache()
        return bool(self._files.exists(self._path(name)))

    def names(self, folder: str = "") -> list[str]:
        """Every object below a folder."""
        return list(self.sizes(folder))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Every object below a folder, with its bytes."""
        self._files.invalidate_cache()
        place = self._path(folder) if folder else self._root
        if not self._files.exists(place):
            return {}
        begin = len(self._root) + 1
        found: dict[str, dict[str, Any]] = self._files.find(place, detail=True)
        return {str(path)[begin:]: int(facts["size"]) for path, facts in found.items()}

    def modified_s(self, name: str) -> float | None:
        """When it was written, where the file system says so."""
        facts = self._files.info(self._path(name))
        for key in ("LastModified", "modified", "updated", "last_modified", "created", "mtime"):
            moment = facts.get(key)
            if isinstance(moment, datetime):
                return moment.timestamp()
            if isinstance(moment, int | float):
                return float(moment)
        return None

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _made(self, name: str) -> str:
        """The path, with the folders that some file systems want to be there first."""
        path = self._path(name)
        self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path


@contextmanager
def _as_os_errors(name: str) -> Generator[None]:
    """What obstore raises, as the errors of a file system; its long report is cut to a line."""
    from obstore.exceptions import AlreadyExistsError, BaseError

    try:
        yield
    except AlreadyExistsError as error:
        raise FileExistsError(f"{name} is there already") from error
    except BaseError as error:
        raise OSError(plain_report(str(error))) from error
