"""Tokens of an identity provider: which are believed, and what they open."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import settings as draws
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.security_settings import JwtSettings, SecuritySettings
from serve_app.security.access import Access
from serve_app.security.provider_tokens import ProviderTokens, fetch_jwks, parse_jwks
from serve_app.security.refusals import AccessRefused

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER = Ed25519PrivateKey.from_private_bytes(bytes(32))
CURVE = generate_private_key(SECP256R1())
NOW_S = int(time.time())
DAY_S = 86_400
"""Tests run long after this file was read: what is to hold then holds for a day."""
CLAIMS: dict[str, Any] = {
    "iss": "https://login.example", "aud": "flywheel", "sub": "shop", "exp": NOW_S + DAY_S,
    "scope": "openid read events",
}  # fmt: skip
SETTINGS = JwtSettings(jwks="keys.json", issuer="https://login.example", audience="flywheel")


def public_jwk(key: Ed25519PrivateKey, kid: str) -> dict[str, Any]:
    """The public half of a key as JWK."""
    raw = key.public_key().public_bytes_raw()
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    return {"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x, "use": "sig"}


def jwks(*entries: dict[str, Any]) -> bytes:
    """A key set."""
    return json.dumps({"keys": entries}).encode()


def tokens_of(*key_sets: bytes | Exception, clock: list[float] | None = None) -> ProviderTokens:
    """Tokens signed by these keys are accepted; each reading takes the next key set."""
    coming = list(key_sets)
    now = clock if clock is not None else [0.0]

    def fetch(location: str) -> bytes:
        answer = coming.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    tokens = ProviderTokens(SETTINGS, fetch, lambda: now[0])
    tokens.refresh()
    return tokens


def signed(key: Any = KEY, kid: str = "k1", algorithm: str = "EdDSA", **claims: Any) -> str:
    """A token; a claim that is None is left out."""
    said = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(said, key, algorithm, headers={"kid": kid})


def refusal(tokens: ProviderTokens, token: str, now_ms: int = NOW_S * 1000) -> str:
    """Why a token is refused; empty if it is accepted."""
    try:
        tokens.accept(token, now_ms)
    except AccessRefused as refused:
        assert refused.status == 401
        return str(refused)
    return ""


def test_a_token_opens_what_its_scope_claim_names() -> None:
    """Scopes of others are left out; a list does as well as words."""
    tokens = tokens_of(jwks(public_jwk(KEY, "k1")))
    caller = tokens.accept(signed(), NOW_S * 1000)
    assert (caller.name, caller.scopes) == ("jwt:shop", ("read", "events"))
    assert tokens.accept(signed(scope=["admin", 3]), NOW_S * 1000).scopes == ("admin",)
    for nothing in (None, 7, "Admin readevents", {"read": 1}):
        assert tokens.accept(signed(scope=nothing), NOW_S * 1000).scopes == ()


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        (lambda: signed(exp=NOW_S - 60), "expired"),
        (lambda: signed(nbf=NOW_S + DAY_S), "not valid yet"),
        (lambda: signed(aud="another"), "another audience"),
        (lambda: signed(iss="https://evil.example"), "another issuer"),
        (lambda: signed(exp=None), "lacks exp"),
        (lambda: signed(aud=None), "lacks exp, iss or aud"),
        (lambda: signed(OTHER), "signature does not fit"),
        (lambda: signed(OTHER, kid="k2"), "not the provider's"),
        (lambda: signed(None, algorithm="none"), "algorithm that is not taken"),
        (lambda: signed(b"x" * 64, algorithm="HS256"), "algorithm that is not taken"),
        (lambda: signed(CURVE, algorithm="ES256"), "algorithm that is not taken"),
        (lambda: "a.b.c", "no token"),
        (lambda: "x" * 9000, "at most"),
        (lambda: "", "no token"),
    ],
)
def test_a_token_that_is_not_to_be_believed_is_refused_with_the_reason(
    token: Any, reason: str
) -> None:
    """Time, audience, issuer, signature, key and algorithm; the token itself is not repeated."""
    tokens = tokens_of(jwks(public_jwk(KEY, "k1")))
    shown = token()
    said = refusal(tokens, shown)
    assert reason in said
    assert not shown or shown not in said


def test_the_public_key_is_no_shared_secret() -> None:
    """The old confusion of algorithms: HS256 with the bytes of the public key as its secret."""
    public = KEY.public_key()
    pem = public.public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    header, claims = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "kid": "k1"}, CLAIMS)
    )
    import hashlib
    import hmac

    for secret in (pem, public.public_bytes_raw()):
        mac = hmac.new(secret, header + b"." + claims, hashlib.sha256).digest()
        token = b".".join((header, claims, base64.urlsafe_b64encode(mac).rstrip(b"=")))
        assert "not taken" in refusal(tokens_of(jwks(public_jwk(KEY, "k1"))), token.decode())


def test_a_remembered_token_ends_with_its_expiry_and_with_the_providers_key() -> None:
    """Remembering saves the signature's cost and nothing else."""
    clock = [0.0]
    tokens = tokens_of(jwks(public_jwk(KEY, "k1")), jwks(public_jwk(OTHER, "k2")), clock=clock)
    token = signed()
    first = tokens.accept(token, NOW_S * 1000)
    assert tokens.accept(token, (NOW_S + 100) * 1000) is first
    # Past its expiry it is verified again, by the clock of the machine.
    assert tokens.accept(token, (NOW_S + 2 * DAY_S) * 1000) is not first
    clock[0] = 301.0
    tokens.refresh()
    assert "not the provider's" in refusal(tokens, token)


def test_an_unknown_key_has_the_set_read_again_but_not_at_once_and_a_failure_keeps_it() -> None:
    """A provider that changes its keys is followed; one that is away is waited for."""
    clock = [0.0]
    later = jwks(public_jwk(KEY, "k1"), public_jwk(OTHER, "k2"))
    first = jwks(public_jwk(KEY, "k1"))
    tokens = tokens_of(first, OSError("away"), later, clock=clock)
    new = signed(OTHER, "k2")
    clock[0] = 5.0
    assert refusal(tokens, new)
    tokens.refresh()  # too early: nothing is read
    clock[0] = 11.0
    assert refusal(tokens, new)
    tokens.refresh()
    assert refusal(tokens, signed()) == ""
    assert refusal(tokens, new)
    clock[0] = 22.0
    tokens.refresh()
    assert refusal(tokens, new) == ""


@given(st.text(max_size=80) | st.binary(max_size=80).map(lambda raw: raw.decode("latin-1")))
@draws(max_examples=50, deadline=None)
def test_any_text_as_a_token_is_refused_and_never_an_error(text: str) -> None:
    """Also behind a header that says what it should."""
    tokens = tokens_of(jwks(public_jwk(KEY, "k1")))
    header, claims, signature = signed().split(".")
    wrong = (text, f"{header}.{text}.{signature}", f"{text}.{claims}.", f"{header}.{claims}.{text}")
    assert all(refusal(tokens, token) for token in wrong)


@given(st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(
    st.sampled_from(["keys", "kty", "crv", "x", "n", "e", "kid", "use", "alg"]), x
)))  # fmt: skip
@draws(max_examples=50, deadline=None)
def test_a_key_set_that_is_none_is_refused_with_a_settings_error(document: Any) -> None:
    """Whatever its shape."""
    for text in (json.dumps(document), json.dumps({"keys": document})):
        with pytest.raises(ConfigError, match=r"security\.jwt\.jwks"):
            parse_jwks(text.encode())


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"issuer": ""}, "issuer"),
        ({"audience": ""}, "audience"),
        ({"algorithms": ("HS256",)}, "algorithms"),
        ({"algorithms": ("none", "RS256")}, "algorithms"),
        ({"algorithms": ()}, "algorithms"),
        ({"jwks": "http://login.example/keys"}, "jwks"),
        ({"jwks": "file:///etc/passwd"}, "jwks"),
    ],
)
def test_settings_by_which_anybody_could_pass_are_refused(
    changes: dict[str, Any], key: str
) -> None:
    """Before the first request."""
    with pytest.raises(ConfigError, match=f"security.jwt.{key}"):
        ProviderTokens(SETTINGS.model_copy(update=changes))


def test_a_key_set_in_a_file_opens_the_door_beside_api_keys(tmp_path: Path) -> None:
    """One header for both; what begins like an API key is one."""
    path = tmp_path / "jwks.json"
    path.write_bytes(jwks(public_jwk(KEY, "k1")))
    assert parse_jwks(fetch_jwks(str(path)))["k1"].algorithm_name == "EdDSA"
    settings = SETTINGS.model_copy(update={"jwks": str(path)})
    access = Access(SecuritySettings(), list, ProviderTokens(settings))
    access.refresh()

    def ask(path: str, token: str) -> Any:
        headers = [(b"authorization", f"bearer {token}".encode())]
        return access.check({"path": path, "headers": headers})

    caller = ask("/v1/recommend", signed())
    assert caller is not None
    assert caller.name == "jwt:shop"
    with pytest.raises(AccessRefused, match="needs admin"):
        ask("/v1/items/i1", signed())
    with pytest.raises(AccessRefused, match="unknown"):
        ask("/v1/recommend", "fw_" + signed())
