"""Passwords and keys are in no message, no traceback and no copy of the settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as draws
from hypothesis import strategies as st

from cluster.__main__ import run
from cluster.endpoint import KEY_VARIABLE, key_headers
from recsys.bundles.registry import Registry
from recsys.settings import ClusterSettings, Settings
from recsys.settings_secrets import bare_url, without_secrets

SECRET = "s3cr3t-9f2c4e1a77b0"
PLACES = {
    "FLYWHEEL__CONTROL_STORE_URL": f"postgresql+psycopg://flywheel:{SECRET}@127.0.0.1:1/control",
    "FLYWHEEL__EVIDENCE_STORE_URL": f"postgresql+psycopg://flywheel:{SECRET}@127.0.0.1:1/evidence",
    "FLYWHEEL__FEATURES__BACKEND": "redis",
    "FLYWHEEL__FEATURES__REDIS_URL": f"redis://flywheel:{SECRET}@127.0.0.1:1/0",
    "FLYWHEEL__CLUSTER__ALARM_WEBHOOK_URL": f"https://hooks.example/{SECRET}",
    "FLYWHEEL__SERVE__PORT": "1",
    "FLYWHEEL_KAFKA_PASSWORD": SECRET,
    "FLYWHEEL_REDIS_PASSWORD": SECRET,
    KEY_VARIABLE: SECRET,
}
VERBS = (
    ("keys", "list"),
    ("keys", "create", "--scope", "read"),
    ("keys", "revoke", f"fw_0123456789ab_{SECRET}"),
    ("recommend", "u1"),
    ("canary", "history"),
    ("features", "get", "u1"),
    ("bundle", "verify", "b1"),
    ("status",),
)


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_no_verb_that_fails_tells_a_secret(
    verb: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Every store is away; with the traceback asked for."""
    monkeypatch.setenv("FLYWHEEL__DATA_DIR", str(tmp_path))
    for name, value in PLACES.items():
        monkeypatch.setenv(name, value)
    assert run([*verb, "--debug"]) != 0
    said = capsys.readouterr()
    assert SECRET not in said.out + said.err


def test_a_copy_of_the_settings_has_their_places_and_none_of_their_secrets(tmp_path: Path) -> None:
    """As a bundle holds them."""
    settings = Settings(
        data_dir=tmp_path,
        registry_url=f"s3://id:{SECRET}@bucket/bundles?token={SECRET}",
        control_store_url=PLACES["FLYWHEEL__CONTROL_STORE_URL"],
        cluster=ClusterSettings(alarm_webhook_url=f"https://hooks.example/{SECRET}"),
    )
    told = without_secrets(settings)
    assert SECRET not in told.model_dump_json()
    assert told.registry_url == "s3://bucket/bundles"
    assert told.control_store_url == "postgresql+psycopg://127.0.0.1:1/control"
    plain = Settings(data_dir=tmp_path)
    assert without_secrets(plain) == plain


@given(st.text(max_size=30))
@draws(max_examples=50, deadline=None)
def test_any_text_as_a_url_is_told_bare_or_not_at_all(text: str) -> None:
    """A path is told as it is; what stands before an @ or behind a ? never is."""
    assert bare_url(text) == text or "://" in text
    safe = "".join(letter for letter in text if letter.isalnum())
    told = bare_url(f"redis://{safe}:{SECRET}@{safe}/0?password={SECRET}#{SECRET}")
    assert SECRET not in told
    assert bare_url(told) == told


def test_a_registry_tells_its_place_without_its_password() -> None:
    """Its name stands in messages."""
    assert Registry(f"memory://id:{SECRET}@bucket/bundles").url == "memory://bucket/bundles"


def test_a_key_of_the_operator_comes_from_the_environment_alone() -> None:
    """An argument would stand in the list of processes."""
    assert key_headers({}) == {}
    assert key_headers({KEY_VARIABLE: "fw_x"}) == {"authorization": "Bearer fw_x"}
