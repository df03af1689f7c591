"""Where the demo runs: its own folder, its own settings, children that end with it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from cluster.demo.demo_command import (
    MARKER,
    _fresh_place,
    _refuse_running_service,
    _take_a_key,
    demo_settings,
)
from cluster.demo.demo_verbs import Verbs, _last_document, verb_environment
from cluster.demo.spoiled_bundle import spoil_weights
from cluster.endpoint import KEY_VARIABLE, key_headers
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import ConfigError, RecsysError
from recsys.keys import SCOPES
from recsys.security_settings import SecuritySettings
from recsys.settings import Settings
from recsys.settings_files import load_settings
from recsys.stores.control.key_tables import KeyReader
from recsys.traffic import TrafficPlan


def test_an_earlier_demo_is_stopped_and_swept_away(tmp_path: Path) -> None:
    """The folder is fresh inside the block, and everything is stopped before and after."""
    place = tmp_path / "demo"
    place.mkdir()
    (place / MARKER).touch()
    (place / "old").touch()
    stops: list[bool] = []
    with _fresh_place(place, lambda: stops.append((place / "old").exists())):
        assert [path.name for path in place.iterdir()] == [MARKER]
    assert stops == [True, False]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    """Files without the demo's mark are never deleted."""
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ConfigError, match="no demo wrote"), _fresh_place(tmp_path, list):
        pass
    assert (tmp_path / "thesis.txt").exists()


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit, ValueError])
def test_everything_is_stopped_however_the_demo_ends(
    tmp_path: Path, ending: type[BaseException]
) -> None:
    """Ctrl-C, a signal and an error all lead through `down`."""
    stops: list[str] = []
    with pytest.raises(ending), _fresh_place(tmp_path / "demo", lambda: stops.append("down")):
        raise ending
    assert stops == ["down"]


def test_the_demo_lays_the_callers_settings_over_its_own(tmp_path: Path) -> None:
    """A port given with --config holds, the data directory is a folder inside the caller's."""
    given = Settings.model_validate({
        "data_dir": tmp_path, "serve": {"port": 8123}, "train": {"towers": {"epochs": 2}},
        "registry_url": "elsewhere", "lake_url": "s3://bucket/lake",
    })  # fmt: skip
    settings = demo_settings(given)
    assert (settings.serve.port, settings.train.towers.epochs) == (8123, 2)
    assert settings.train.towers.embedding_dim == 32
    assert settings.data_dir == (tmp_path / "demo").resolve()
    assert settings.registry_location == str(settings.data_dir / "bundles")
    assert settings.lake_location.startswith("s3://bucket/lake/demo-")


def test_the_demo_refuses_a_control_store_that_directs_traffic(tmp_path: Path) -> None:
    """A server is shared with whoever uses it, unlike a folder of the demo's own."""
    url = f"sqlite:///{tmp_path / 'shared.sqlite'}"
    _refuse_running_service(Settings(control_store_url=url))
    ControlWriter(url).set_plan(TrafficPlan.single("b1", 1, "s"), 0)
    with pytest.raises(ConfigError, match="expected the demo's stores to be empty"):
        _refuse_running_service(Settings(control_store_url=url))


def test_a_verb_reads_exactly_the_demos_settings(tmp_path: Path) -> None:
    """Variables of the caller's environment do not leak past the resolved settings."""
    settings = demo_settings(Settings.model_validate({"data_dir": tmp_path}))
    outside = {"FLYWHEEL__SERVE__PORT": "1", "FLYWHEEL_CONFIG": "none.toml", "PATH": "/bin"}
    environment = verb_environment(settings, outside)
    assert load_settings(environ=environment) == settings
    assert environment["PATH"] == "/bin"


def test_a_verb_that_fails_is_quoted_with_its_reason() -> None:
    """The demo's one error line says which verb, which code and why."""
    notes: list[str] = []
    verbs = Verbs(dict(os.environ), notes.append)
    with pytest.raises(RecsysError, match=r"'cluster bogus' ended with exit code 2 \(there is no"):
        verbs.run("bogus")
    assert any("there is no verb" in note for note in notes)
    assert verbs.run("bogus", accepted=(2,)).exit_code == 2


def test_the_document_of_a_verb_is_found_whole_or_as_its_last_line() -> None:
    """Pretty-printed or after other lines."""
    assert _last_document('{\n "a": 1\n}\n') == {"a": 1}
    assert _last_document('loading\n{"a": 2}\n') == {"a": 2}
    assert _last_document("nothing") == {}


def test_spoiling_puts_nan_in_every_weight_and_keeps_the_rest(tmp_path: Path) -> None:
    """Shapes, integer tensors and metadata stay, so that only the load check can tell."""
    path = tmp_path / "scorer.safetensors"
    save_file({"w": np.ones((2, 3), np.float32), "n": np.arange(3)}, path, {"format": "x"})
    spoil_weights(path)
    with safe_open(path, framework="numpy") as file:
        assert np.isnan(file.get_tensor("w")).all()
        assert file.get_tensor("w").shape == (2, 3)
        assert file.get_tensor("n").tolist() == [0, 1, 2]
        assert file.metadata() == {"format": "x"}


@pytest.mark.parametrize("keys", ["required", "auto"])
def test_where_keys_are_asked_for_the_demo_shows_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keys: str
) -> None:
    """It opens everything the demo's users do; elsewhere none is made."""
    monkeypatch.setenv(KEY_VARIABLE, "")
    security = SecuritySettings.model_validate({"keys": keys})
    settings = Settings(data_dir=tmp_path, security=security)
    _take_a_key(settings, Verbs(verb_environment(settings, os.environ), lambda _: None))
    made = KeyReader(settings.control_url).read()
    assert [set(key.scopes) for key in made] == ([set(SCOPES)] if keys == "required" else [])
    assert bool(key_headers()) == (keys == "required")
