"""What the suites run on: each kind of feature store, and of control store."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest

from recsys.stores.features.feature_store import FeatureStore
from recsys.stores.features.feature_update import FeatureWriter
from tests.control_backends import control_url as control_url
from tests.control_backends import postgres as postgres
from tests.feature_backends import BACKENDS, FeatureBackend, a_feature_backend
from tests.registry_places import bucket_url as bucket_url
from tests.registry_places import lake_url as lake_url
from tests.registry_places import real_registry_url as real_registry_url
from tests.registry_places import registry_url as registry_url
from tests.registry_places import s3 as s3
from tests.registry_places import s3_process as s3_process


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
