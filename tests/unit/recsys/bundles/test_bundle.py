"""The manifest and the proof that a bundle's files are the published ones."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.bundles.bundle import (
    content_digest,
    new_bundle_id,
    read_manifest,
    space_fingerprint,
    verify_bundle,
)
from recsys.bundles.manifest_text import render
from recsys.bundles.scorer_space import SCORER_SPACE, ScorerSpace
from recsys.errors import BundleCorrupt, BundleError
from tests.plain_bundles import FILES, NOW, a_bundle


def test_a_bundle_id_carries_its_time_and_content() -> None:
    """The id sorts by time in UTC."""
    assert new_bundle_id(NOW, "4e1c9a77ff") == "b20261122-091500-4e1c9a"


def test_a_bundle_id_of_a_bad_digest_is_refused() -> None:
    """What is no digest cannot name content."""
    with pytest.raises(BundleError, match="not hexadecimal"):
        new_bundle_id(NOW, "../etc")


def test_a_written_manifest_reads_back_equal_and_verifies(tmp_path: Path) -> None:
    """Writing, reading and verifying agree, and no temporary file stays."""
    written = a_bundle(tmp_path)
    assert read_manifest(tmp_path) == written == verify_bundle(tmp_path)
    assert written.files.keys() == FILES.keys()
    assert written.n_bytes == sum(len(content) for content in FILES.values())
    assert written.created_at == "2026-11-22T09:15:00+00:00"
    assert written.space_fingerprint == space_fingerprint(tmp_path)


def test_a_scorer_with_its_own_towers_is_another_format(tmp_path: Path) -> None:
    """A program of before refuses it by the version, and reads plain bundles as it did."""
    plain = a_bundle(tmp_path / "plain")
    document = json.loads((tmp_path / "plain" / "manifest.json").read_bytes())
    assert (plain.format_version, "scorer_space" in document) == (1, False)
    folder = tmp_path / "carried" / SCORER_SPACE
    folder.mkdir(parents=True)
    (folder / "towers.json").write_text("{}")
    space = ScorerSpace("a" * 64, 24, 3)
    carried = a_bundle(tmp_path / "carried", scorer_space=space)
    assert verify_bundle(tmp_path / "carried") == carried
    assert (carried.format_version, carried.scorer_space) == (2, space)
    with pytest.raises(BundleError, match="files say otherwise"):
        a_bundle(tmp_path / "none", scorer_space=space)


def test_the_fingerprint_is_of_the_space_and_the_digest_of_everything(tmp_path: Path) -> None:
    """A new scorer keeps the embedding space; a new tower does not."""
    a_bundle(tmp_path)
    space, content = space_fingerprint(tmp_path), content_digest(tmp_path)
    (tmp_path / "settings.json").write_bytes(b"[]")
    assert (space_fingerprint(tmp_path), content_digest(tmp_path)) != (space, content)
    assert space_fingerprint(tmp_path) == space
    (tmp_path / "item_tower.safetensors").write_bytes(b"other")
    assert space_fingerprint(tmp_path) != space


def test_the_digest_ignores_the_manifest(tmp_path: Path) -> None:
    """An id made of the digest can stand in the manifest."""
    a_bundle(tmp_path)
    before = content_digest(tmp_path)
    (tmp_path / "manifest.json").unlink()
    assert content_digest(tmp_path) == before


def test_a_space_file_that_is_missing_is_named(tmp_path: Path) -> None:
    """No fingerprint of half a space."""
    (tmp_path / "user_tower.safetensors").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"item_tower\.safetensors"):
        space_fingerprint(tmp_path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_removed_file_is_named(tmp_path: Path, name: str) -> None:
    """Every file of the manifest must be there."""
    a_bundle(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BundleCorrupt, match=name):
        verify_bundle(tmp_path)


@pytest.mark.parametrize("name", ["extra.bin", "index/shard-000/.hidden", ".manifest.json.tmp"])
def test_an_added_file_is_named(tmp_path: Path, name: str) -> None:
    """Nothing may lie beside the published files."""
    a_bundle(tmp_path)
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(BundleCorrupt, match=name):
        verify_bundle(tmp_path)


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_truncated_or_flipped_file_is_detected_and_named(data: st.DataObject) -> None:
    """Whatever byte of whatever file, the manifest included."""
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        a_bundle(directory)
        names = sorted([*(name for name, content in FILES.items() if content), "manifest.json"])
        path = directory / data.draw(st.sampled_from(names))
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[place:]
        else:
            content[place] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with pytest.raises(BundleCorrupt, match=path.name):
            verify_bundle(directory)


def test_links_and_special_files_are_refused(tmp_path: Path) -> None:
    """A link could change after it was verified; reading a pipe would hang."""
    (tmp_path / "a").mkdir()
    a_bundle(tmp_path / "a")
    (tmp_path / "a" / "settings.json").rename(tmp_path / "outside.json")
    (tmp_path / "a" / "settings.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(BundleCorrupt, match=r"settings.json .* symbolic link"):
        verify_bundle(tmp_path / "a")
    (tmp_path / "a" / "settings.json").unlink()
    os.mkfifo(tmp_path / "a" / "settings.json")
    with pytest.raises(BundleCorrupt, match=r"settings.json .* no regular file"):
        verify_bundle(tmp_path / "a")


def test_a_linked_directory_is_refused(tmp_path: Path) -> None:
    """Files behind a link are not the bundle's."""
    bundle = tmp_path / "b1"
    bundle.mkdir()
    a_bundle(bundle)
    shutil.move(bundle / "index", tmp_path / "index")
    (bundle / "index").symlink_to(tmp_path / "index")
    with pytest.raises(BundleCorrupt, match=r"index .* symbolic link"):
        verify_bundle(bundle)


def signed(document: dict[str, object]) -> bytes:
    """A manifest whose own checksum is right, as a wrong writer would make it."""
    return render(document)


SPACE = {"fingerprint": "a" * 64, "embedding_dim": 8, "n_estimated": 0}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 3}, "format_version 3, this program reads 1 and 2"),
        ({"format_version": None}, "format_version None"),
        ({"format_version": 2}, "files say otherwise; compose the bundle again"),
        ({"scorer_space": SPACE}, "files say otherwise"),
        ({"format_version": 2, "scorer_space": SPACE}, "files say otherwise"),
        ({"format_version": 2, "scorer_space": SPACE | {"n_estimated": -1}}, "n_estimated"),
        ({"n_items": "3"}, "wrong type.*n_items"),
        ({"n_shards": 0}, "n_shards"),
        ({"files": {"../escape": {"sha256": "0" * 64, "size": 1}}}, "escape"),
        ({"files": {"/etc/passwd": {"sha256": "0" * 64, "size": 1}}}, "passwd"),
        ({"files": {"a/./b": {"sha256": "0" * 64, "size": 1}}}, "a/./b"),
        ({"files": {"manifest.json": {"sha256": "0" * 64, "size": 1}}}, "manifest.json"),
        ({"files": {"a": {"sha256": "short", "size": 1}}}, "sha256"),
        ({"bundle_id": "../b1"}, "bundle id"),
        ({"created_at": "yesterday"}, "bad value"),
        ({"created_at": "2026-11-22T09:15:00"}, "expected UTC"),
    ],
)
def test_a_manifest_with_bad_values_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    """Even when its own checksum is right."""
    a_bundle(tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_bytes())
    (tmp_path / "manifest.json").write_bytes(signed(document | change))
    with pytest.raises(BundleCorrupt, match=message):
        read_manifest(tmp_path)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, text: bytes) -> None:
    """Malformed JSON is a broken bundle, not a crash."""
    (tmp_path / "manifest.json").write_bytes(text)
    with pytest.raises(BundleCorrupt, match=r"manifest\.json"):
        read_manifest(tmp_path)


def test_a_field_of_a_later_release_is_ignored(tmp_path: Path) -> None:
    """A trainer may be newer than a replica, within one format version."""
    written = a_bundle(tmp_path)
    document = json.loads((tmp_path / "manifest.json").read_bytes())
    (tmp_path / "manifest.json").write_bytes(signed(document | {"added_later": 1}))
    assert read_manifest(tmp_path) == written


def test_a_missing_manifest_is_a_broken_bundle(tmp_path: Path) -> None:
    """So is a bundle directory that does not exist."""
    for directory in (tmp_path, tmp_path / "none"):
        with pytest.raises(BundleCorrupt, match=r"manifest\.json .* missing"):
            verify_bundle(directory)


def test_metrics_that_are_not_finite_are_refused_when_written(tmp_path: Path) -> None:
    """NaN is no JSON, and no metric."""
    with pytest.raises(BundleError, match="finite"):
        a_bundle(tmp_path, metrics={"ndcg@10": float("nan")})
    assert not (tmp_path / "manifest.json").exists()
