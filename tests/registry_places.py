"""Where the conformance suite keeps bundles, and a bundle to keep."""

from __future__ import annotations

import uuid
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import fsspec
import pytest

from recsys.bundles.bundle import write_manifest
from tests.s3_server import S3Server, an_s3_server

NOW = datetime(2026, 11, 22, 9, 15, 0, tzinfo=UTC)


def a_staging(directory: Path, bundle_id: str = "b1", age_s: float = 0.0) -> Path:
    """A whole bundle outside the registry."""
    for name in ("user_tower", "item_tower", "item_vectors"):
        (directory / f"{name}.safetensors").parent.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.safetensors").write_bytes(f"{name} of {bundle_id}".encode())
    (directory / "index" / "shard-000").mkdir(parents=True)
    (directory / "index" / "shard-000" / "codes.npy").write_bytes(b"codes")
    write_manifest(
        directory,
        bundle_id=bundle_id,
        created_at=NOW - timedelta(seconds=age_s),
        feature_schema={},
        feature_schema_hash="4e1c",
        actions=("view",),
        n_items=1,
        n_shards=1,
        embedding_dim=8,
        lineage={},
        metrics={},
    )
    return directory


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Generator[S3Server]:
    """A gateway for all tests of a process; each takes a prefix of its own."""
    with an_s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch) -> S3Server:
    """The gateway, which this test's clients find by the environment."""
    for name, value in s3_process.environment.items():
        monkeypatch.setenv(name, value)
    return s3_process


@pytest.fixture(params=["directory", "file_url", "memory", "s3"])
def registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A registry of each kind, empty."""
    yield from _places(request, tmp_path)


@pytest.fixture(params=["memory", "s3"])
def bucket_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A registry of each kind of bucket, empty."""
    yield from _places(request, tmp_path)


@pytest.fixture(params=["directory", "s3"])
def real_registry_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A registry of each kind that decides who is first, empty."""
    yield from _places(request, tmp_path)


@pytest.fixture(params=["directory", "file_url", "s3"])
def lake_url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    """A lake of each kind, empty."""
    yield from _places(request, tmp_path)


def _places(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    if request.param == "s3":
        server: S3Server = request.getfixturevalue("s3")
        yield f"{server.new_url()}/place"
    elif request.param == "memory":
        name = f"registry-{uuid.uuid4().hex}"
        yield f"memory://{name}/place"
        if fsspec.filesystem("memory").exists(f"/{name}"):
            fsspec.filesystem("memory").rm(f"/{name}", recursive=True)
    else:
        yield f"{'file://' if request.param == 'file_url' else ''}{tmp_path / 'place'}"
