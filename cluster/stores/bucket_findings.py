"""The doctor's check of registry and lake in a bucket: reachable, writable, and first come first.

Puts one small object under `.doctor/`, which it deletes again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cluster.findings import Check, Finding
from cluster.stores.server_findings import mend_of
from recsys.bundles.bucket_reports import plain_place
from recsys.errors import RecsysError, StoreError

if TYPE_CHECKING:
    from recsys.settings import Settings

_PROBE = ".doctor/probe-"
S3_MENDS = (
    ("169.254.169.254", "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or give the pod a role"),
    ("invalidaccesskeyid", "set AWS_ACCESS_KEY_ID to a key that the store knows"),
    ("signaturedoesnotmatch", "set AWS_SECRET_ACCESS_KEY to the key's secret"),
    ("accessdenied", "let the key read, write, list and delete in this bucket"),
    ("nosuchbucket", "make the bucket, or correct its name in the URL"),
    ("not found", "make the bucket, or correct its name in the URL"),
    ("requesttimetooskewed", "set this machine's clock"),
    ("builder error", "set AWS_ALLOW_HTTP=true if AWS_ENDPOINT_URL is http:// on purpose"),
    ("403", "check key, secret and what the key may do in this bucket"),
    ("connect", "start the store, or correct AWS_ENDPOINT_URL"),
    ("sending request", "start the store, or correct AWS_ENDPOINT_URL"),
)


def check_object_store(settings: Settings) -> Iterable[Finding]:
    """Registry and lake, where they are in a bucket."""
    for subject, location in (
        ("registry", settings.registry_location),
        ("lake", settings.lake_location),
    ):
        if "://" not in location or location.startswith("file://"):
            continue
        yield from _endpoint_findings(subject, os.environ)
        place = plain_place(location)
        try:
            is_conditional = ask_bucket(location)
        except (RecsysError, OSError) as error:
            mend = mend_of(str(error), S3_MENDS, "check AWS_ENDPOINT_URL, AWS_REGION and the keys")
            yield Finding("fail", subject, f"{place} cannot be used: {error}", mend)
            continue
        if is_conditional:
            yield Finding("ok", subject, f"{place} can be read, written and deleted in")
        else:
            detail = f"{place} overwrites what a condition forbids: two commits become one"
            mend = "use a store that holds 'If-None-Match: *' on a put"
            yield Finding("fail", subject, detail, mend)


def ask_bucket(url: str) -> bool:
    """Whether the store keeps what is there from a put on condition that nothing is.

    Puts one small object twice, and deletes it.

    Raises:
        RecsysError: the URL cannot be used.
        OSError: the store cannot be reached, or refuses.
    """
    from uuid import uuid4

    from recsys.bundles.bucket_objects import open_objects

    objects = open_objects(url)
    name = f"{_PROBE}{uuid4().hex}"
    objects.create(name, b"first")
    try:
        objects.create(name, b"second")
    except FileExistsError:
        pass
    else:
        return False
    finally:
        objects.remove(name)
    if objects.exists(name):
        raise StoreError(f"{name} is still there after its deletion; let the key delete objects")
    return True


def _endpoint_findings(subject: str, environ: Mapping[str, str]) -> Iterable[Finding]:
    """What the variables of the environment lack, or say in clear text."""
    endpoint = environ.get("AWS_ENDPOINT_URL", "")
    host = plain_place(endpoint).partition("://")[2].partition(":")[0].partition("/")[0]
    if endpoint.startswith("http://") and host not in {"127.0.0.1", "localhost", ""}:
        mend = "give the store a certificate and use https:// in AWS_ENDPOINT_URL"
        yield Finding("warn", subject, f"{plain_place(endpoint)} is spoken to in clear text", mend)


BUCKET_CHECKS: tuple[Check, ...] = (check_object_store,)
"""Shown last."""
