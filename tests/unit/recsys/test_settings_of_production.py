"""The settings files of production: every key is there, with a comment and the right default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from recsys.settings import Settings
from recsys.settings_files import load_settings, setting_keys

CONFIGS = Path(__file__).parents[3] / "configs"
_TABLE = re.compile(r"^\[(?P<name>[a-z_.]+)\]$")
_KEY = re.compile(r"^(?P<off>#: )?(?P<name>[a-z_]+) (= (?P<value>.+)|has no value)$")


def keys_of_prod() -> dict[str, tuple[bool, str | None, bool]]:
    """Whether each key is set, the text of its value, and whether a comment stands above it."""
    found: dict[str, tuple[bool, str | None, bool]] = {}
    table, above = "", ""
    for line in (CONFIGS / "prod.toml").read_text().splitlines():
        if match := _TABLE.match(line):
            table = match["name"] + "."
        elif match := _KEY.match(line):
            key = table + match["name"]
            assert key not in found, f"{key} stands twice"
            found[key] = (match["off"] is None, match["value"], above.startswith("# "))
        above = line
    return found


def default_of(key: str) -> object:
    """The default, as JSON says it."""
    value: object = Settings().model_dump(mode="json")
    for name in key.split("."):
        assert isinstance(value, dict)
        value = value[name]
    return value


def test_every_key_stands_in_prod_with_a_comment() -> None:
    """A new setting is said there too, as `#: key = default` under its comment."""
    found = keys_of_prod()
    missing = sorted(set(setting_keys()) - set(found))
    assert not missing, "\n".join(f"#: {key} = {default_of(key)!r}" for key in missing)
    assert sorted(set(found) - set(setting_keys())) == []
    assert [key for key, (_, _, has_comment) in found.items() if not has_comment] == []


def test_what_prod_does_not_set_is_the_default() -> None:
    """And what it sets is not: a default stands once."""
    for key, (is_set, text, _) in keys_of_prod().items():
        value = None if text is None else tomllib.loads(f"value = {text}")["value"]
        assert (value == default_of(key)) != is_set, f"{key} = {value!r}"


@pytest.mark.parametrize("name", ["prod.toml", "prod-local.toml"])
def test_production_has_no_embedded_store_and_no_password(name: str) -> None:
    """Everything that outlives a node stands outside it; secrets come from the environment."""
    settings = load_settings([CONFIGS / name], environ={})
    assert (settings.events.backend, settings.features.backend) == ("kafka", "redis")
    assert settings.control_url.startswith("postgresql+psycopg://flywheel@")
    assert settings.evidence_url.startswith("postgresql+psycopg://flywheel@")
    assert settings.registry_location.startswith("s3://")
    assert settings.lake_location.startswith("s3://")
    is_local = name == "prod-local.toml"
    assert (settings.events.kafka.security_protocol == "PLAINTEXT") == is_local
    assert settings.features.redis_url.startswith("redis://" if is_local else "rediss://")
    assert (settings.serve.host == "127.0.0.1") == is_local
