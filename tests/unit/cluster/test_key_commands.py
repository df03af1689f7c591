"""`cluster keys`: made once, stored as a checksum, two live ones of a client, revoked by id."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster.console import Console
from cluster.keys.key_commands import keys
from cluster.keys.key_writer import KeyWriter
from recsys.errors import ConfigError
from recsys.keys import find_key, new_key
from recsys.settings import Settings
from recsys.stores.control.key_tables import KeyReader

NOW_MS = 1_760_000_000_000


def run(settings: Settings, *arguments: str) -> str:
    """What a verb of `cluster keys` writes as JSON."""
    lines: list[str] = []
    console = Console(settings, as_json=True, write=lines.append)
    done = CliRunner().invoke(keys, arguments, obj=console, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return "\n".join(lines)


def test_a_key_is_shown_once_listed_without_it_and_revoked(tmp_path: Path) -> None:
    """No file of the store holds the token; the list never shows it again."""
    settings = Settings(data_dir=tmp_path)
    arguments = ("--scope", "events", "--scope", "read", "--client", "shop", "--rate", "5")
    made = json.loads(run(settings, "create", *arguments))
    assert made["scopes"] == ["read", "events"]
    (stored,) = KeyReader(settings.control_url).read()
    assert find_key(made["key"], {stored.key_id: stored}, NOW_MS) == stored
    assert stored.rate_per_s == 5
    secret = made["key"].rpartition("_")[2].encode()
    assert not any(secret in path.read_bytes() for path in tmp_path.iterdir())

    listed = run(settings, "list")
    assert secret.decode() not in listed
    assert [row["state"] for row in json.loads(listed)["keys"]] == ["live"]
    assert json.loads(run(settings, "revoke", made["key_id"]))["state"] == "revoked"
    assert [row["state"] for row in json.loads(run(settings, "list"))["keys"]] == ["revoked"]


def test_before_the_first_key_the_list_is_empty_and_makes_no_store(tmp_path: Path) -> None:
    """Looking writes nothing."""
    settings = Settings(data_dir=tmp_path / "var")
    assert json.loads(run(settings, "list")) == {"keys": []}
    assert not settings.data_dir.exists()


def test_a_client_has_two_live_keys_and_a_third_once_one_is_revoked(tmp_path: Path) -> None:
    """That is what changing over needs, and no more; nobody else's keys count."""
    writer = KeyWriter(f"sqlite:///{tmp_path / 'control.sqlite'}")
    rng = random.Random(1)
    made = [new_key(("read",), NOW_MS, rng.randbytes, client="shop").key for _ in range(3)]
    writer.add(made[0], NOW_MS)
    writer.add(made[1], NOW_MS)
    writer.add(new_key(("read",), NOW_MS, rng.randbytes).key, NOW_MS)
    with pytest.raises(ConfigError, match=f"revoke {made[0].key_id}"):
        writer.add(made[2], NOW_MS)
    assert writer.revoke(made[0].key_id, NOW_MS + 1).revoked_ms == NOW_MS + 1
    writer.add(made[2], NOW_MS + 2)
    assert writer.revoke(made[0].key_id, NOW_MS + 9).revoked_ms == NOW_MS + 1
    writer.close()


def test_a_key_given_where_its_id_is_meant_is_not_repeated(tmp_path: Path) -> None:
    """Error lines end up in logs."""
    writer = KeyWriter(f"sqlite:///{tmp_path / 'control.sqlite'}")
    token = new_key(("read",), NOW_MS, random.Random(2).randbytes).token
    with pytest.raises(ConfigError) as caught:
        writer.revoke(token, NOW_MS)
    assert token[16:] not in str(caught.value)
    writer.close()
