"""The files of the lake beside what Delta does with them: a folder's, or an object store's.

An object store is reached through Delta's own client, so that tables and their files need one set
of environment variables: `AWS_ENDPOINT_URL`, `AWS_REGION`, keys or a role.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import pyarrow.fs as pa_fs


def files_of(location: str) -> tuple[Any, str]:
    """An Arrow file system and the path of `location`, a folder or URL, in it."""
    if "://" not in location:
        return pa_fs.LocalFileSystem(), location
    parts = urlsplit(location)
    if parts.scheme == "file":
        return pa_fs.LocalFileSystem(), parts.path
    from deltalake.fs import DeltaStorageHandler

    handler = DeltaStorageHandler(f"{parts.scheme}://{parts.netloc}")
    return pa_fs.PyFileSystem(handler), parts.path.strip("/")
