"""A backup: the control store's rows, every bundle, every table of the lake; and back.

Features and evidence are made of the log and the lake, and come back by replaying them. What the
archiver has not brought into the lake yet is the log's, which keeps three copies of its own.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cluster.stores.control_copy import read_rows, write_rows
from recsys.bundles.bucket_objects import BucketObjects, open_objects
from recsys.bundles.registry import Registry, bundle_cache
from recsys.errors import ConfigError, DataError, StoreError
from recsys.settings import Settings

LAYOUT = 1
_DONE = "backup.json"
_ROWS = "control.jsonl"
_LOG = "/_delta_log/"
Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class BackupFacts:
    """What a backup holds."""

    made_ms: int
    n_rows: int
    n_bundles: int
    n_lake_files: int
    n_copied: int
    """Files of the lake that an earlier backup at this place did not have."""


def create_backup(settings: Settings, place: str, now_ms: int, note: Note) -> BackupFacts:
    """Copy everything that cannot be made anew to `place`, a directory or URL.

    May be run again at the same place: what has not changed is not copied again, and a backup that
    was killed is none until it is whole. Whatever runs goes on meanwhile.

    Raises:
        StoreError: a store is away, or the place cannot be written.
        BundleError: a bundle is damaged.
    """
    target = open_objects(as_url(place))
    # Rows first: a bundle that they name stays in the registry for as long as they name it.
    lines = read_rows(settings.control_url)
    rows = "".join(f"{line}\n" for line in lines).encode()
    note(f"control store: {len(lines)} rows")
    n_bundles = _copy_bundles(settings.registry_location, _under(place, "bundles"), settings)
    note(f"registry: {n_bundles} bundles")
    lake = open_objects(as_url(settings.lake_location))
    with _told(f"{settings.lake_location} or {place}"):
        n_copied, files = copy_lake(lake, target, "lake/")
    note(f"lake: {len(files)} files, {n_copied} of them new")
    facts = BackupFacts(now_ms, len(lines), n_bundles, len(files), n_copied)
    with _told(place):
        target.write(_ROWS, rows)
        target.write(_DONE, _summary(facts, rows, files))
    return facts


def restore_backup(settings: Settings, place: str, note: Note) -> BackupFacts:
    """Put a backup into empty stores.

    Raises:
        ConfigError: there is no backup at `place`, or a store is not empty.
        DataError: the backup is damaged.
        StoreError: a store cannot be written; run it again with empty ones.
    """
    source = open_objects(as_url(place))
    facts, digest, wanted = _read_summary(source, place)
    with _told(place):
        rows = source.read(_ROWS)
    if hashlib.sha256(rows).hexdigest() != digest:
        raise DataError(f"{_ROWS} of {place} was changed; take an earlier backup")
    lake = open_objects(as_url(settings.lake_location))
    with _told(settings.lake_location):
        found = lake.names()
    if found:
        raise ConfigError(
            f"the lake {settings.lake_location} has {len(found)} files, expected an empty one to "
            "restore into; name another lake_url"
        )
    _copy_bundles(_under(place, "bundles"), settings.registry_location, settings)
    note(f"registry: {facts.n_bundles} bundles")
    with _told(f"{settings.lake_location} or {place}"):
        _copy_files(source, lake, "lake/", "", wanted)
    note(f"lake: {len(wanted)} files")
    n_rows = write_rows(settings.control_url, rows.decode().splitlines())
    note(f"control store: {n_rows} rows")
    return facts


def copy_lake(
    source: BucketObjects, target: BucketObjects, folder: str
) -> tuple[int, dict[str, int]]:
    """Copy the tables of a lake as they stand now; files copied, and the bytes of every file.

    Commits are listed before data files, so that what they name is listed too, and copied after
    them. `_last_checkpoint` is left out: it may name a later version, and readers do without.
    """
    commits = {
        name: size
        for name, size in source.sizes().items()
        if _LOG in name and not name.endswith("_last_checkpoint")
    }
    data = {name: size for name, size in source.sizes().items() if _LOG not in name}
    files = {**data, **commits}
    return _copy_files(source, target, "", folder, files), files


def _copy_files(
    source: BucketObjects, target: BucketObjects, of: str, to: str, files: dict[str, int]
) -> int:
    """Copy what the target has not got in this size; how many."""
    there = target.sizes(to.rstrip("/"))
    todo = [name for name, size in files.items() if there.get(to + name) != size]
    with tempfile.TemporaryDirectory(prefix="flywheel-copy-") as folder:
        draft = Path(folder) / "file"
        for name in todo:
            try:
                source.download(of + name, draft)
            except FileNotFoundError:
                if _LOG in name:
                    raise
                # Cleaned away meanwhile: no version that is kept needs it.
                files.pop(name)
                continue
            if draft.stat().st_size != files[name]:
                raise OSError(f"{name} has {draft.stat().st_size} bytes, expected {files[name]}")
            target.upload(to + name, draft)
    return len(todo)


def _copy_bundles(source: str, target: str, settings: Settings) -> int:
    """Publish every bundle of one registry in another that has not got it, verified."""
    registry, other = Registry(source), Registry(target)
    manifests = registry.list_bundles()
    for manifest in reversed(manifests):
        if not other.exists(manifest.bundle_id):
            other.publish(registry.fetch(manifest.bundle_id, bundle_cache(settings)))
    return len(manifests)


def _summary(facts: BackupFacts, rows: bytes, files: dict[str, int]) -> bytes:
    document = {
        "layout": LAYOUT,
        "made_ms": facts.made_ms,
        "n_rows": facts.n_rows,
        "n_bundles": facts.n_bundles,
        "rows_sha256": hashlib.sha256(rows).hexdigest(),
        "lake": files,
    }
    return json.dumps(document, sort_keys=True).encode()


def _read_summary(source: BucketObjects, place: str) -> tuple[BackupFacts, str, dict[str, int]]:
    try:
        with _told(place):
            document = json.loads(source.read(_DONE))
        files = {str(name): int(size) for name, size in document["lake"].items()}
        facts = BackupFacts(
            int(document["made_ms"]), int(document["n_rows"]), int(document["n_bundles"]),
            len(files), 0,
        )  # fmt: skip
        layout, digest = int(document["layout"]), str(document["rows_sha256"])
    except FileNotFoundError as error:
        raise ConfigError(
            f"there is no whole backup at {place}, expected {_DONE} in it; name another place"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{_DONE} of {place} cannot be read ({error!r})") from error
    if layout != LAYOUT:
        raise DataError(f"the backup at {place} has layout {layout}, this release reads {LAYOUT}")
    return facts, digest, files


@contextmanager
def _told(place: str) -> Generator[None]:
    """Errors of files and buckets as sentences; what is missing is the caller's."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StoreError(
            f"{place} cannot be used: {error}; check its credentials, permissions and free space"
        ) from error


def as_url(location: str) -> str:
    """A directory as a URL."""
    return location if "://" in location else f"file://{Path(location).resolve()}"


def _under(place: str, name: str) -> str:
    return f"{place.rstrip('/')}/{name}"
