"""Hundreds of corruptions of a bundle's files, the manifest's among them: each one is detected."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.bundles.bundle import MANIFEST_NAME, sign_bundle, verify_bundle
from recsys.bundles.signatures import write_signing_key
from recsys.errors import BundleCorrupt
from tests.plain_bundles import FILES, a_bundle

Corruption = Callable[[bytes, random.Random], bytes]
N_SEEDS = 8


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One bit is another."""
    at = rng.randrange(len(content))
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """The end is missing, as after a power cut."""
    return content[: rng.randrange(len(content))]


def grown(content: bytes, rng: random.Random) -> bytes:
    """There is something more at the end."""
    return content + rng.randbytes(rng.randrange(1, 9))


def zeroed(content: bytes, rng: random.Random) -> bytes:
    """A stretch was never written: its length is right."""
    start = rng.randrange(len(content))
    end = rng.randrange(start, len(content)) + 1
    return content[:start] + bytes(end - start) + content[end:]


def doubled(content: bytes, rng: random.Random) -> bytes:
    """A block stands twice."""
    at = rng.randrange(len(content))
    return content[:at] + content[at : at + 8] + content[at:]


CORRUPTIONS: tuple[Corruption, ...] = (flipped, cut, grown, zeroed, doubled)
NAMES = (*(name for name, content in FILES.items() if content), MANIFEST_NAME)


@pytest.mark.parametrize("corrupt", CORRUPTIONS)
def test_every_corruption_of_every_file_is_detected(tmp_path: Path, corrupt: Corruption) -> None:
    """Bits, ends and blocks: five kinds in six files at eight places make 240."""
    directory = tmp_path / "b1"
    a_bundle(directory)
    write_signing_key(tmp_path / "signing.pem")
    sign_bundle(directory, tmp_path / "signing.pem")
    verify_bundle(directory)
    n_detected = 0
    for name in NAMES:
        path = directory / name
        intact = path.read_bytes()
        for seed in range(N_SEEDS):
            broken = corrupt(intact, random.Random(seed))
            assert broken != intact
            path.write_bytes(broken)
            with pytest.raises(BundleCorrupt):
                verify_bundle(directory)
            n_detected += 1
        path.write_bytes(intact)
    verify_bundle(directory)
    assert n_detected * len(CORRUPTIONS) >= 200


def test_files_that_are_swapped_renamed_or_added_are_detected(tmp_path: Path) -> None:
    """All bytes are there, only elsewhere."""
    directory = tmp_path / "b1"
    a_bundle(directory)
    names = [name for name in NAMES if name != MANIFEST_NAME]
    for first, second in itertools.pairwise(names):
        for source, target in ((first, second), (second, first)):
            intact = (directory / target).read_bytes()
            (directory / target).write_bytes((directory / source).read_bytes())
            with pytest.raises(BundleCorrupt, match=r"bytes|sha256"):
                verify_bundle(directory)
            (directory / target).write_bytes(intact)
    for name in names:
        (directory / name).rename(directory / f"{name}.moved")
        with pytest.raises(BundleCorrupt):
            verify_bundle(directory)
        (directory / f"{name}.moved").rename(directory / name)
    (directory / "extra.pkl").write_bytes(b"x")
    with pytest.raises(BundleCorrupt, match=r"extra\.pkl .* not in the manifest"):
        verify_bundle(directory)


def test_a_manifest_in_another_spelling_is_detected(tmp_path: Path) -> None:
    """The same values with other spaces, order or a key twice are not what was written."""
    directory = tmp_path / "b1"
    a_bundle(directory)
    path = directory / MANIFEST_NAME
    intact = path.read_bytes()
    document = json.loads(intact)
    others = (
        json.dumps(document).encode(),
        json.dumps(dict(reversed(document.items())), indent=1).encode() + b"\n",
        intact.replace(b"{", b'{"bundle_id": "b9",', 1),
        intact + b" ",
        b"\xef\xbb\xbf" + intact,
    )
    for other in others:
        path.write_bytes(other)
        with pytest.raises(BundleCorrupt):
            verify_bundle(directory)
