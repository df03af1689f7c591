"""The bundle directory: its manifest, and the proof that every file is the one that was published.

Knows files, checksums and the manifest's shape; not where bundles are kept (`registry`), nor what
the files mean to a stage. The manifest has one writer, `write_manifest`, called by the publisher.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec

from recsys.bundles.bundle_files import regular_files, sha256_of, write_durably
from recsys.bundles.manifest_text import MANIFEST_NAME as MANIFEST_NAME
from recsys.bundles.manifest_text import check_unchanged, content_sha256, render
from recsys.bundles.scorer_space import Count, ScorerSpace, Sha256, of_scorer_space
from recsys.bundles.signatures import BundleSignature, sign
from recsys.errors import BundleCorrupt, BundleError

FORMAT_VERSION = 1
SCORER_SPACE_FORMAT = 2
"""Of a bundle whose scorer has a space of its own: a program that cannot read it must not try."""
SPACE_FILES = ("user_tower.safetensors", "item_tower.safetensors", "item_vectors.safetensors")
"""The files that define an embedding space, in the order they are hashed."""

_BUNDLE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class BundleFile:
    """What the manifest promises of one file; `size` in bytes."""

    sha256: Sha256
    size: Count


@dataclass(frozen=True, slots=True)
class Manifest:
    """Everything a reader must know of a bundle before it opens one of its other files."""

    bundle_id: str
    created_at: str
    """ISO 8601, UTC."""
    files: dict[str, BundleFile]
    """By relative posix path; everything in the directory but the manifest itself."""
    space_fingerprint: Sha256
    feature_schema: dict[str, Any]
    feature_schema_hash: str
    actions: tuple[str, ...]
    """Kinds of engagement the scorer predicts, in the order of its outputs."""
    n_items: Count
    n_shards: Annotated[int, msgspec.Meta(ge=1)]
    embedding_dim: Annotated[int, msgspec.Meta(ge=1)]
    lineage: dict[str, Any]
    metrics: dict[str, Any]
    parents: tuple[str, ...] = ()
    format_version: int = FORMAT_VERSION
    scorer_space: ScorerSpace | None = None
    """None where the scorer reads the vectors that retrieval reads."""
    signature: BundleSignature | None = None
    content_sha256: str = field(default="", compare=False)
    """What a signature is of: computed from the text, never read from it."""

    @property
    def n_bytes(self) -> int:
        """Size of all files together."""
        return sum(file.size for file in self.files.values())


def new_bundle_id(now: datetime, content_digest: str) -> str:
    """A name that sorts by time and tells two bundles of one second apart."""
    if not re.fullmatch(r"[0-9a-f]{6,}", content_digest):
        raise BundleError(
            f"content digest '{content_digest}' is not hexadecimal with at least 6 digits; "
            "use recsys.bundles.bundle.content_digest"
        )
    return f"b{now.astimezone(UTC):%Y%m%d-%H%M%S}-{content_digest[:6]}"


def check_bundle_id(bundle_id: str) -> str:
    """Return the id if it can name a directory and nothing outside of it.

    Raises:
        BundleError: it is empty, too long, or could be a path.
    """
    if not _BUNDLE_ID.fullmatch(bundle_id):
        raise BundleError(
            f"bundle id '{bundle_id}' is not a bundle id: expected 1 to 128 letters, digits, "
            "'.', '_' or '-', starting with a letter or digit; see 'cluster bundle list'"
        )
    return bundle_id


def content_digest(directory: Path) -> str:
    """Sha256 over the names and contents of all files but the manifest: names what was built."""
    digest = hashlib.sha256()
    for name in sorted(set(regular_files(directory)) - {MANIFEST_NAME}):
        digest.update(f"{name}\0{sha256_of(directory / name)}\0".encode())
    return digest.hexdigest()


def space_fingerprint(directory: Path) -> str:
    """Sha256 over the towers and the item vectors: equal means vectors may meet.

    Raises:
        BundleError: one of the files is missing.
    """
    digest = hashlib.sha256()
    for name in SPACE_FILES:
        try:
            digest.update(f"{name}\0{sha256_of(directory / name)}\0".encode())
        except FileNotFoundError as error:
            raise BundleError(
                f"{directory} has no {name}, which a fingerprint of the embedding space needs"
            ) from error
    return digest.hexdigest()


def write_manifest(
    directory: Path,
    *,
    bundle_id: str,
    created_at: datetime,
    feature_schema: Mapping[str, Any],
    feature_schema_hash: str,
    actions: Sequence[str],
    n_items: int,
    n_shards: int,
    embedding_dim: int,
    lineage: Mapping[str, Any],
    metrics: Mapping[str, Any],
    parents: Sequence[str] = (),
    scorer_space: ScorerSpace | None = None,
) -> Manifest:
    """Hash every file of the directory and write `manifest.json`, durably and as the last file.

    Raises:
        BundleError: a value cannot be stored, or a file of the embedding space is missing.
        BundleCorrupt: the directory holds a link or something that is no plain file.
    """
    manifest = Manifest(
        bundle_id=check_bundle_id(bundle_id),
        created_at=created_at.astimezone(UTC).isoformat(timespec="seconds"),
        files=_promised_files(directory),
        space_fingerprint=space_fingerprint(directory),
        feature_schema=dict(feature_schema),
        feature_schema_hash=feature_schema_hash,
        actions=tuple(actions),
        n_items=n_items,
        n_shards=n_shards,
        embedding_dim=embedding_dim,
        lineage=dict(lineage),
        metrics=dict(metrics),
        parents=tuple(parents),
        format_version=FORMAT_VERSION if scorer_space is None else SCORER_SPACE_FORMAT,
        scorer_space=scorer_space,
    )
    text = _text_of(manifest)
    write_durably(directory / MANIFEST_NAME, text)
    return parse_manifest(text)


def sign_bundle(directory: Path, key_file: Path) -> Manifest:
    """Put a signature by this key into the manifest, in place of any other."""
    manifest = read_manifest(directory)
    document = json.loads((directory / MANIFEST_NAME).read_bytes())
    document["signature"] = asdict(sign(manifest.bundle_id, manifest.content_sha256, key_file))
    write_durably(directory / MANIFEST_NAME, render(document))
    return read_manifest(directory)


def _promised_files(directory: Path) -> dict[str, BundleFile]:
    return {
        name: BundleFile(sha256_of(directory / name), (directory / name).stat().st_size)
        for name in sorted(set(regular_files(directory)) - {MANIFEST_NAME})
    }


def _text_of(manifest: Manifest) -> bytes:
    """The manifest as it is stored, once it is known to be readable.

    Raises:
        BundleError: a value cannot be stored.
    """
    document = asdict(manifest)
    del document["content_sha256"]
    for name in ("scorer_space", "signature"):
        if document[name] is None:
            del document[name]  # a plain bundle reads as it did before there was such a thing
    try:
        text = render(document)
        parse_manifest(text)
    except (ValueError, TypeError, BundleCorrupt) as error:
        raise BundleError(
            f"the manifest of {manifest.bundle_id} cannot be written: {error}; only finite JSON "
            "values may stand in it, and what it says of the files must be so"
        ) from error
    return text


def read_manifest(directory: Path) -> Manifest:
    """Read the manifest alone.

    Raises:
        BundleCorrupt: it is missing, was changed after it was written, or is of another format.
    """
    path = directory / MANIFEST_NAME
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise BundleCorrupt(f"{MANIFEST_NAME} of bundle {directory.name} is missing") from error
    except OSError as error:
        raise BundleCorrupt(f"{path} cannot be read: {error.strerror}") from error
    return parse_manifest(text)


def parse_manifest(text: bytes) -> Manifest:
    """Read a manifest from its bytes; see `read_manifest`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BundleCorrupt(f"{MANIFEST_NAME} is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise BundleCorrupt(f"{MANIFEST_NAME} holds no JSON object")
    version = document.get("format_version")
    if version not in (FORMAT_VERSION, SCORER_SPACE_FORMAT) or isinstance(version, bool):
        raise BundleCorrupt(
            f"{MANIFEST_NAME} has format_version {version!r}, this program reads {FORMAT_VERSION} "
            f"and {SCORER_SPACE_FORMAT}; use the release that published the bundle, or train a "
            "new one"
        )
    check_unchanged(document, text)
    try:
        manifest = msgspec.convert(document, Manifest)
    except msgspec.ValidationError as error:
        raise BundleCorrupt(f"{MANIFEST_NAME} has a value of the wrong type: {error}") from error
    manifest = replace(manifest, content_sha256=content_sha256(document))
    _check_values(manifest)
    return manifest


def verify_bundle(directory: Path) -> Manifest:
    """Prove that the directory holds exactly the files of its manifest, unchanged.

    Reads every file once, in blocks; hashing runs outside the interpreter's lock.

    Raises:
        BundleCorrupt: the first thing found wrong, with the file's name.
    """
    manifest = read_manifest(directory)
    present = set(regular_files(directory)) - {MANIFEST_NAME}
    where = f"of bundle {manifest.bundle_id}"
    for name, promised in manifest.files.items():
        if name not in present:
            raise BundleCorrupt(f"{name} {where} is missing")
        size = (directory / name).stat().st_size
        if size != promised.size:
            raise BundleCorrupt(
                f"{name} {where} has {size} bytes, the manifest says {promised.size}"
            )
    for name in sorted(present - manifest.files.keys()):
        raise BundleCorrupt(f"{name} {where} is not in the manifest")
    for name, promised in manifest.files.items():
        try:
            found = sha256_of(directory / name)
        except OSError as error:
            raise BundleCorrupt(f"{name} {where} cannot be read: {error.strerror}") from error
        if found != promised.sha256:
            raise BundleCorrupt(f"{name} {where} was changed: its sha256 is not the manifest's")
    return manifest


def _check_values(manifest: Manifest) -> None:
    for name in manifest.files:
        path = PurePosixPath(name)
        plain = path.parts and not path.is_absolute() and ".." not in path.parts
        if not plain or str(path) != name or "\\" in name or "\0" in name or name == MANIFEST_NAME:
            raise BundleCorrupt(f"{MANIFEST_NAME} names '{name}', which is no file of the bundle")
    has_space = manifest.scorer_space is not None
    has_files = bool(of_scorer_space(manifest.files))
    if not has_space == has_files == (manifest.format_version == SCORER_SPACE_FORMAT):
        raise BundleCorrupt(
            f"{MANIFEST_NAME} says scorer_space {manifest.scorer_space} in format_version "
            f"{manifest.format_version}, and its files say otherwise; compose the bundle again"
        )
    try:
        check_bundle_id(manifest.bundle_id)
        offset = datetime.fromisoformat(manifest.created_at).utcoffset()
    except (BundleError, ValueError) as error:
        raise BundleCorrupt(f"{MANIFEST_NAME} has a bad value: {error}") from error
    if offset is None or offset:
        raise BundleCorrupt(f"{MANIFEST_NAME} has created_at '{manifest.created_at}', expected UTC")
