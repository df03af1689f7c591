"""API keys: what is drawn, what is stored of it, and what opens."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.keys import SECRET_BYTES, find_key, new_key

NOW_MS = 1_760_000_000_000


def test_a_key_has_256_random_bits_of_which_only_a_checksum_is_kept() -> None:
    """Neither the stored key nor a print of either holds the token or its secret."""
    drawn: list[int] = []

    def random_bytes(n_bytes: int) -> bytes:
        drawn.append(n_bytes)
        return random.Random(n_bytes).randbytes(n_bytes)

    made = new_key(("read",), NOW_MS, random_bytes)
    assert SECRET_BYTES * 8 == 256
    assert SECRET_BYTES in drawn
    secret = made.token.rpartition("_")[2]
    assert made.key.digest == hashlib.sha256(made.token.encode()).hexdigest()
    assert secret not in repr(made)
    assert made.key.digest not in repr(made)


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=50, deadline=None)
def test_only_the_whole_token_opens(seed: int, data: st.DataObject) -> None:
    """A token with one character changed, taken away or added opens nothing."""
    rng = random.Random(seed)
    made = [new_key(("read",), NOW_MS, rng.randbytes) for _ in range(3)]
    keys = {one.key.key_id: one.key for one in made}
    for one in made:
        assert find_key(one.token, keys, NOW_MS) is one.key
    token = made[0].token
    at = data.draw(st.integers(0, len(token) - 1))
    letter = data.draw(st.characters(min_codepoint=32, max_codepoint=0x2FF))
    for wrong in (token[:at] + token[at + 1 :], token[:at] + letter + token[at:]):
        assert find_key(wrong, keys, NOW_MS) is None
    changed = token[:at] + letter + token[at + 1 :]
    assert (find_key(changed, keys, NOW_MS) is None) == (changed != token)


def test_a_key_of_one_id_with_the_secret_of_another_opens_nothing() -> None:
    """The id only says where to look."""
    rng = random.Random(1)
    first, second = (new_key(("read",), NOW_MS, rng.randbytes) for _ in range(2))
    keys = {key.key_id: key for key in (first.key, second.key)}
    mixed = first.token[:15] + second.token[15:]
    assert mixed.startswith(f"fw_{first.key.key_id}")
    assert find_key(mixed, keys, NOW_MS) is None


def test_revoked_and_expired_keys_open_nothing() -> None:
    """An expiry is the first moment at which it opens nothing."""
    made = new_key(("read",), NOW_MS, random.Random(2).randbytes, expires_ms=NOW_MS + 10)
    key_id = made.key.key_id
    assert find_key(made.token, {key_id: made.key}, NOW_MS + 9) is not None
    assert find_key(made.token, {key_id: made.key}, NOW_MS + 10) is None
    revoked = replace(made.key, revoked_ms=NOW_MS)
    assert find_key(made.token, {key_id: revoked}, NOW_MS) is None


@pytest.mark.parametrize(
    ("scopes", "client"), [((), None), (("write",), None), (("read",), "a b"), (("read",), "")]
)
def test_a_key_without_known_scopes_or_with_a_bad_client_is_refused(
    scopes: tuple[str, ...], client: str | None
) -> None:
    """The error names what would do."""
    with pytest.raises(ConfigError, match="expected"):
        new_key(scopes, NOW_MS, random.Random(3).randbytes, client=client)
