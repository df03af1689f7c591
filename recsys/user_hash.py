"""How our own logs and reports name a person: never by id."""

from __future__ import annotations

import hashlib

_SHOWN_DIGITS = 12


def user_hash(user_id: str) -> str:
    """A short name for a user in log lines, the same wherever it is written.

    It keeps ids out of files that are copied around; who has a list of ids can still look one up.
    """
    digest = hashlib.sha256(user_id.encode("utf-8", "surrogatepass")).hexdigest()
    return f"user-{digest[:_SHOWN_DIGITS]}"
