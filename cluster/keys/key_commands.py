"""`cluster keys`: make, list and revoke the API keys of the HTTP door."""

from __future__ import annotations

import secrets
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster.console import Console, as_text
from recsys.keys import SCOPES, ApiKey, new_key

if TYPE_CHECKING:
    from recsys.settings import Settings

DAY_MS = 24 * 3600 * 1000


@click.group(
    epilog="""\b
    Examples:
      cluster keys create --scope read --scope events --client shop
      cluster keys list
      cluster keys revoke 9f2c4e1a77b0
      cluster keys signing --out signing.pem
    """
)
def keys() -> None:
    """Make, list and revoke API keys.

    Requests carry one as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'. They need one wherever
    the service listens beyond this machine (security.keys).
    """


@keys.command(
    epilog="""\b
    Examples:
      cluster keys create --scope read
      cluster keys create --scope read --scope events --client shop --expires-days 90
      cluster --json keys create --scope admin | jq -r .key

    The key is shown once and stored as a checksum. A client may have two live keys, so that it
    can change over: create the new one, hand it over, revoke the old one.
    """
)
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(SCOPES),
    help="What it opens; repeatable. read: slates, events: POST /v1/events, admin: the catalogue.",
)
@click.option("--client", metavar="NAME", help="Whose it is; at most two live keys each.")
@click.option("--expires-days", type=click.FloatRange(min=0, min_open=True), metavar="DAYS")
@click.option(
    "--rate",
    "rate_per_s",
    type=click.FloatRange(min=0, min_open=True),
    metavar="PER_S",
    help="Requests per second in each gateway replica, instead of security.rate_per_s.",
)
@click.pass_obj
def create(
    console: Console,
    scopes: tuple[str, ...],
    client: str | None,
    expires_days: float | None,
    rate_per_s: float | None,
) -> None:
    """Make a key and print it, once."""
    from cluster.keys.key_writer import KeyWriter

    now_ms = _now_ms()
    expires_ms = None if expires_days is None else now_ms + round(expires_days * DAY_MS)
    made = new_key(
        scopes,
        now_ms,
        secrets.token_bytes,
        client=client,
        expires_ms=expires_ms,
        rate_per_s=rate_per_s,
    )
    with closing(KeyWriter(console.settings.control_url)) as writer:
        writer.add(made.key, now_ms)
    console.note(
        f"key {made.key.key_id} opens {', '.join(made.key.scopes)} within a few seconds; "
        "keep it now, it is not shown again"
    )
    if not _is_demanded(console.settings):
        console.note(
            "note: the service listens on this machine only and asks for no key (security.keys)"
        )
    console.emit({"key": made.token, **_document(made.key, now_ms)}, made.token)


@keys.command(
    "list",
    epilog="""\b
    Examples:
      cluster keys list
      cluster --json keys list | jq -r '.keys[] | select(.state == "live") | .key_id'
    """,
)
@click.pass_obj
def list_keys(console: Console) -> None:
    """List all keys, the oldest first; what a key is cannot be shown again."""
    from rich.table import Table

    from recsys.stores.control.key_tables import KeyReader

    with closing(KeyReader(console.settings.control_url)) as reader:
        found = reader.read()
    rows = [_document(key, _now_ms()) for key in found]
    table = Table()
    for name in ("key_id", "client", "scopes", "state", "created", "expires", "rate_per_s"):
        table.add_column(name, no_wrap=name == "key_id")
    for row in rows:
        texts = (*row.values(),)
        table.add_row(*(_cell(text) for text in texts))
    empty = "there are no keys; make one with 'cluster keys create --scope read'"
    console.emit({"keys": rows}, as_text(table) if rows else empty)


@keys.command(
    epilog="""\b
    Examples:
      cluster keys revoke 9f2c4e1a77b0
    """
)
@click.argument("key_id")
@click.pass_obj
def revoke(console: Console, key_id: str) -> None:
    """End a key: gateways refuse it within a poll of the control store (serve.plan_poll_s)."""
    from cluster.keys.key_writer import KeyWriter

    now_ms = _now_ms()
    with closing(KeyWriter(console.settings.control_url)) as writer:
        key = writer.revoke(key_id, now_ms)
    console.emit(_document(key, now_ms), f"revoked {key.key_id} of {key.client}")


@keys.command(
    epilog="""\b
    Examples:
      cluster keys signing --out signing.pem

    Set security.signing_key_file to the file where bundles are published, and
    security.trusted_keys with security.require_signed_bundles where they are loaded.
    """
)
@click.option(
    "--out",
    "path",
    required=True,
    type=click.Path(path_type=Path),
    help="Where the private key goes; readable by you alone, and never overwritten.",
)
@click.pass_obj
def signing(console: Console, path: Path) -> None:
    """Make an Ed25519 key that signs bundles, and print its public half."""
    from recsys.bundles.signatures import write_signing_key

    public_key = write_signing_key(path)
    console.note(f"the private key is in {path}; keep it where bundles are published, only there")
    console.emit({"public_key": public_key, "path": str(path)}, public_key)


def _is_demanded(settings: Settings) -> bool:
    from recsys.security_settings import demands_keys

    return demands_keys(settings.security, settings.serve.host)


def _document(key: ApiKey, now_ms: int) -> dict[str, Any]:
    state = "live" if key.is_live(now_ms) else "revoked" if key.revoked_ms else "expired"
    return {
        "key_id": key.key_id,
        "client": key.client,
        "scopes": list(key.scopes),
        "state": state,
        "created_at": _moment(key.created_ms),
        "expires_at": _moment(key.expires_ms),
        "rate_per_s": key.rate_per_s,
    }


def _moment(at_ms: int | None) -> str | None:
    if at_ms is None:
        return None
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")


def _cell(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(value)
    return "" if value is None else str(value)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
