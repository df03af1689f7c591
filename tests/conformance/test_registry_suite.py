"""One contract for registries in directories, file systems and real S3."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from recsys.bundles.bucket_objects import open_objects
from recsys.bundles.bundle import Manifest, verify_bundle
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound, StoreError
from tests.registry_places import a_staging
from tests.s3_server import S3Server


def test_a_registry_that_was_never_written_is_empty(registry_url: str) -> None:
    """Reading makes nothing and fails at nothing."""
    registry = Registry(registry_url)
    assert registry.survey() == ([], [])
    assert not registry.exists("b1")


def test_a_published_bundle_is_listed_read_and_fetched_whole(
    registry_url: str, tmp_path: Path
) -> None:
    """The way from the trainer to a replica."""
    staging = a_staging(tmp_path / "staging")
    registry = Registry(registry_url)
    published = registry.publish(staging)
    assert registry.exists("b1")
    assert registry.list_bundles() == [published]
    assert Registry(registry_url).manifest("b1") == published
    fetched = registry.fetch("b1", tmp_path / "cache")
    assert fetched.is_absolute()
    assert verify_bundle(fetched) == published


def test_bundles_are_listed_newest_first(registry_url: str, tmp_path: Path) -> None:
    """By the time they were made, not by name."""
    registry = Registry(registry_url)
    for bundle_id, age_s in (("a", 10.0), ("c", 30.0), ("b", 20.0)):
        registry.publish(a_staging(tmp_path / bundle_id, bundle_id, age_s))
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == ["a", "b", "c"]


def test_an_id_is_never_overwritten(registry_url: str, tmp_path: Path) -> None:
    """The first bundle of an id stays as it is."""
    registry = Registry(registry_url)
    first = registry.publish(a_staging(tmp_path / "first"))
    second = a_staging(tmp_path / "second", age_s=5.0)
    with pytest.raises(BundleError, match="already"):
        registry.publish(second)
    assert registry.list_bundles() == [first]


def test_a_corrupt_staging_directory_is_not_published(registry_url: str, tmp_path: Path) -> None:
    """The registry takes only what its manifest describes."""
    staging = a_staging(tmp_path / "staging")
    (staging / "index" / "shard-000" / "codes.npy").write_bytes(b"c0des")
    registry = Registry(registry_url)
    with pytest.raises(BundleCorrupt, match=r"codes\.npy"):
        registry.publish(staging)
    assert registry.survey() == ([], [])


def test_an_unknown_bundle_is_answered_with_the_newest_ones(
    registry_url: str, tmp_path: Path
) -> None:
    """The error says what there is instead."""
    registry = Registry(registry_url)
    registry.publish(a_staging(tmp_path / "staging"))
    with pytest.raises(BundleNotFound, match=r"b9 .* b1"):
        registry.fetch("b9", tmp_path / "cache")


@pytest.mark.parametrize("bundle_id", ["../b1", "/etc", "", ".b1.tmp-x", "a/b", "a\\b", "a" * 129])
def test_an_id_that_is_a_path_is_refused(registry_url: str, tmp_path: Path, bundle_id: str) -> None:
    """No id leads out of the registry."""
    registry = Registry(registry_url)
    for call in (registry.exists, registry.manifest, lambda b: registry.fetch(b, tmp_path)):
        with pytest.raises(BundleError, match="is not a bundle id"):
            call(bundle_id)


def test_of_several_publishers_of_one_id_exactly_one_wins(
    real_registry_url: str, tmp_path: Path
) -> None:
    """The rename, or the condition of the put, decides; the losers are told."""
    stagings = [a_staging(tmp_path / f"s{i}", age_s=float(i)) for i in range(4)]
    outcomes: list[str] = []
    start = threading.Barrier(len(stagings))

    def publish(staging: Path) -> None:
        start.wait()
        try:
            Registry(real_registry_url).publish(staging)
            outcomes.append("published")
        except BundleError:
            outcomes.append("refused")

    threads = [threading.Thread(target=publish, args=(staging,)) for staging in stagings]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["published", "refused", "refused", "refused"]
    registry = Registry(real_registry_url)
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == ["b1"]
    verify_bundle(registry.fetch("b1", tmp_path / "cache"))


def test_an_upload_without_its_manifest_was_never_published(
    bucket_url: str, tmp_path: Path
) -> None:
    """The manifest is the commit of a bucket; what a killed upload left is written over."""
    registry = Registry(bucket_url)
    registry.publish(a_staging(tmp_path / "staging"))
    open_objects(bucket_url).remove("b1/manifest.json")
    assert registry.survey() == ([], [])
    registry.publish(tmp_path / "staging")
    assert [manifest.bundle_id for manifest in registry.list_bundles()] == ["b1"]


def test_a_damaged_cached_copy_is_downloaded_again(bucket_url: str, tmp_path: Path) -> None:
    """The cache is only a copy, and a right one is not asked for again."""
    registry = Registry(bucket_url)
    manifest = registry.publish(a_staging(tmp_path / "staging"))
    cached = registry.fetch("b1", tmp_path / "cache")
    (cached / "user_tower.safetensors").write_bytes(b"damaged")
    assert verify_bundle(registry.fetch("b1", tmp_path / "cache")) == manifest
    open_objects(bucket_url).remove("b1/user_tower.safetensors")
    assert verify_bundle(registry.fetch("b1", tmp_path / "cache")) == manifest


def test_replicas_of_a_node_share_one_cached_copy(bucket_url: str, tmp_path: Path) -> None:
    """Fetched by many at once, it is downloaded once, and never moved from under who has it."""
    registry = Registry(bucket_url)
    manifest = registry.publish(a_staging(tmp_path / "staging"))
    start = threading.Barrier(8)
    found: list[Manifest] = []

    def fetch() -> None:
        start.wait()
        directory = registry.fetch("b1", tmp_path / "cache")
        found.extend(verify_bundle(directory) for _ in range(5))

    threads = [threading.Thread(target=fetch) for _ in range(start.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [manifest] * 5 * start.parties
    assert list((tmp_path / "cache").iterdir()) == [tmp_path / "cache" / "b1"]


@pytest.mark.parametrize("content", [b"damaged", b"", None])
def test_a_damaged_object_of_a_bucket_is_refused_and_never_cached(
    bucket_url: str, tmp_path: Path, content: bytes | None
) -> None:
    """A download appears whole and verified, or not at all."""
    registry = Registry(bucket_url)
    registry.publish(a_staging(tmp_path / "staging"))
    objects = open_objects(bucket_url)
    if content is None:
        objects.remove("b1/user_tower.safetensors")
    else:
        objects.write("b1/user_tower.safetensors", content)
    with pytest.raises(BundleCorrupt, match=r"user_tower\.safetensors"):
        registry.fetch("b1", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_removal_goes_in_two_steps(registry_url: str, tmp_path: Path) -> None:
    """Hidden it can come back; purged it leaves nothing, and the id is free again."""
    registry = Registry(registry_url)
    published = registry.publish(a_staging(tmp_path / "staging"))
    assert registry.hide("b1")
    assert not registry.hide("b1")
    assert (registry.hidden(), registry.exists("b1"), registry.survey()) == (
        ["b1"],
        False,
        ([], []),
    )
    assert registry.show("b1")
    assert verify_bundle(registry.fetch("b1", tmp_path / "cache")) == published
    registry.hide("b1")
    for _ in range(2):
        registry.purge("b1")
    assert (registry.hidden(), registry.show("b1")) == ([], False)
    assert registry.publish(tmp_path / "staging") == published


def test_a_bucket_whose_file_is_gone_is_not_shown_again(bucket_url: str, tmp_path: Path) -> None:
    """A removal that was killed in its second step is finished."""
    registry = Registry(bucket_url)
    registry.publish(a_staging(tmp_path / "staging"))
    registry.hide("b1")
    open_objects(bucket_url).remove("b1/index/shard-000/codes.npy")
    assert not registry.show("b1")
    registry.purge("b1")
    assert open_objects(bucket_url).names() == []


def test_the_moment_of_a_publish_is_told(registry_url: str, tmp_path: Path) -> None:
    """By the store's clock."""
    began_s = time.time()
    registry = Registry(registry_url)
    assert registry.stored_s("b1") is None
    registry.publish(a_staging(tmp_path / "staging"))
    stored_s = registry.stored_s("b1")
    assert stored_s is not None
    assert abs(stored_s - began_s) < 60


def test_a_store_that_is_away_is_said_with_what_to_check(
    s3: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """In one line and within the retries' time; wrong keys too, and no key is told."""
    registry = Registry(s3.new_url())
    manifest = registry.publish(a_staging(tmp_path / "staging"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-secret")
    stranger = Registry(registry.url)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    away = Registry(registry.url)
    for other in (stranger, away):
        with pytest.raises(StoreError, match="check the setting registry_url") as told:
            other.list_bundles()
        assert "\n" not in str(told.value)
        assert "wrong-secret" not in str(told.value)
    assert registry.list_bundles() == [manifest]
