"""The feature stores the suites of features run on: a writer and a reader of each kind."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from recsys.stores.feature_store import FeatureStore
from recsys.stores.feature_update import FeatureWriter
from tests.feature_backends import BACKENDS, FeatureBackend, a_feature_backend


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[FeatureBackend]:
    """Each kind of store, empty."""
    with a_feature_backend(request.param, tmp_path) as backend:
        yield backend


@pytest.fixture
def writer(backend: FeatureBackend) -> Generator[FeatureWriter]:
    """A writer of the store."""
    writer = backend.writer()
    yield writer
    writer.close()


@pytest.fixture
def reader(backend: FeatureBackend) -> Generator[FeatureStore]:
    """A reader of the store."""
    reader = backend.reader()
    yield reader
    reader.close()
