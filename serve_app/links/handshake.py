"""Both ends of a link prove that they know its token, which is never sent.

The token is the replica's own, drawn at its start; whoever Ray lets call the replica can ask for
it. Knows nothing of frames and sockets.
"""

from __future__ import annotations

import hmac
import secrets
from dataclasses import dataclass, field

NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """Where a replica listens and what opens it; told through Ray, whose callers are trusted."""

    replica_id: str
    host: str
    port: int
    token: bytes = field(repr=False)


def new_token() -> bytes:
    """A secret of one replica's life."""
    return secrets.token_bytes(32)


def new_nonce() -> bytes:
    """What makes a proof good for one connection only."""
    return secrets.token_bytes(NONCE_BYTES)


def client_proof(token: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    """What the one that connects says."""
    return _proof(token, b"client", server_nonce, client_nonce)


def server_proof(token: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    """What the replica answers: nobody else listens on its port."""
    return _proof(token, b"server", server_nonce, client_nonce)


def is_same(proof: bytes, expected: bytes) -> bool:
    """Compared in constant time."""
    return hmac.compare_digest(proof, expected)


def _proof(token: bytes, role: bytes, server_nonce: bytes, client_nonce: bytes) -> bytes:
    return hmac.digest(token, role + server_nonce + client_nonce, "sha256")
