"""A second feature store beside the one that serves, to be filled and then put in its place.

Used by the store's one writer, `train_app.following`; what fills it is not known here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from recsys.settings import Settings
from recsys.stores.features.feature_file import replace_contents
from recsys.stores.features.feature_update import FeatureWriter
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.features.open_features import redis_password
from recsys.stores.redis_features.redis_draft import RedisFeatureDraft
from recsys.stores.sqlite_file import COMPANIONS


class FeatureDraft(Protocol):
    """An empty store, until it is put in place or removed."""

    def writer(self) -> FeatureWriter:
        """A writer of the draft, empty at first."""

    def put_in_place(self) -> None:
        """Give the store that serves the draft's contents, in one step for readers and writers.

        Raises:
            StoreError: the contents of before stay.
        """

    def remove(self) -> None:
        """Leave nothing of the draft behind, nor of one that a killed process left."""


class FileFeatureDraft:
    """A draft beside the embedded store.

    Args:
        path: of the store that serves.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._draft = path.with_name(f"{path.name}.rebuild")

    def writer(self) -> FeatureWriter:
        """A writer of the draft."""
        self.remove()
        return SqliteFeatureWriter(self._draft)

    def put_in_place(self) -> None:
        """Replace the contents; readers keep the file open and see the new ones."""
        replace_contents(self._path, self._draft)

    def remove(self) -> None:
        """Delete the draft's files."""
        for end in ("", *COMPANIONS):
            self._draft.with_name(self._draft.name + end).unlink(missing_ok=True)


def open_feature_draft(settings: Settings) -> FeatureDraft:
    """A draft of the store that the settings name.

    Raises:
        ConfigError: the server cannot take one.
        StoreError: the server is away.
    """
    if settings.features.backend == "redis":
        return RedisFeatureDraft(settings.features.redis_url, redis_password())
    return FileFeatureDraft(settings.feature_path)
