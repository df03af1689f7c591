"""The one way a manifest is written: canonical JSON with a checksum of the rest in front.

Knows text and checksums; what the values mean is `bundle`'s.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from recsys.errors import BundleCorrupt

MANIFEST_NAME = "manifest.json"
_CHECKSUM = "checksum"
_SIGNATURE = "signature"


def render(document: Mapping[str, Any]) -> bytes:
    """The text of these values; the checksum covers all of them, the signature included."""
    body = {key: value for key, value in document.items() if key != _CHECKSUM}
    summed = {_CHECKSUM: hashlib.sha256(_canonical(body)).hexdigest(), **body}
    return (json.dumps(summed, sort_keys=True, indent=1, allow_nan=False) + "\n").encode()


def check_unchanged(document: Mapping[str, Any], text: bytes) -> None:
    """Prove that the text is what `render` makes of it.

    Raises:
        BundleCorrupt: it is not.
    """
    with suppress(ValueError):
        if render(document) == text:
            return
    raise BundleCorrupt(f"{MANIFEST_NAME} was changed after it was written")


def content_sha256(document: Mapping[str, Any]) -> str:
    """Checksum of everything but checksum and signature: what a signature is of.

    Taken of the text as it is, so that fields of a later release are covered too.
    """
    added = (_CHECKSUM, _SIGNATURE)
    body = {key: value for key, value in document.items() if key not in added}
    return hashlib.sha256(_canonical(body)).hexdigest()


def _canonical(body: Mapping[str, Any]) -> bytes:
    return json.dumps(body, sort_keys=True, allow_nan=False).encode()
