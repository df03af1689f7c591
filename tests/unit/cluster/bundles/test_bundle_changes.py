"""`cluster bundle compose | diff | pin | gc` and the undo of a part: words and exit codes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster import learning_commands
from cluster.bundles.bundle_commands import bundle
from cluster.bundles.bundle_parts import earlier_part, undo_part
from cluster.console import Console
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.composition import COMPOSED, Part
from recsys.bundles.registry import Registry
from recsys.errors import BundleError, BundleNotFound, ConfigError, FleetError
from recsys.settings import Settings
from tests.parts_for_tests import DAY_S, let_age, publish_parts

Calls = list[list[str]]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """b1 is stable; b2 fits it, b3 does with its own towers, b4 is b1 with the scorer of b2.

    b0 reads other histories.
    """
    settings = Settings(data_dir=tmp_path / "var")
    publish_parts(settings, tmp_path, "b1", second=1)
    publish_parts(settings, tmp_path, "b2", second=2, scorer="other", ordering={"pool": 9})
    publish_parts(settings, tmp_path, "b3", second=3, space="other", scorer="third")
    origins = {"retrieval": "b1", "scorer": "b2", "ordering": "b1"}
    lineage = {COMPOSED: origins}
    publish_parts(
        settings, tmp_path, "b4", second=4, scorer="other", lineage=lineage, parents=("b1", "b2")
    )
    publish_parts(settings, tmp_path, "b0", second=0, scorer="fifth", schema_hash="9f00")
    ControlWriter(settings.control_url).set_alias("stable", "b1", None)
    return settings


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    """What was asked of the trainer's process, which says that it made b9."""
    asked: Calls = []

    def answer(console: Console, arguments: list[str], reads_result: bool) -> Any:
        asked.append(arguments)
        parts = dict(zip(arguments[1::2], arguments[2::2], strict=True))
        made = {"bundle_id": "b9", "is_new": True, "base": parts["--base"]}
        return (0, made) if "b3" not in arguments else (1, {})

    monkeypatch.setattr(learning_commands, "run_learning", answer)
    return asked


def run(settings: Settings, *arguments: str, as_json: bool = True) -> Result:
    """The command, as `cluster bundle ARGUMENTS`."""
    return CliRunner().invoke(bundle, list(arguments), obj=Console(settings, as_json=as_json))


def document(result: Result) -> Any:
    """The one JSON document on stdout."""
    assert result.exit_code == 0, result.exception
    return json.loads(result.stdout)


def test_composing_asks_the_trainer_once_the_parts_fit(settings: Settings, calls: Calls) -> None:
    """It alone writes bundles."""
    made = document(run(settings, "compose", "--base", "b1", "--scorer", "b2", "--ordering", "b2"))
    assert made["bundle_id"] == "b9"
    assert calls == [["compose", "--base", "b1", "--scorer", "b2", "--ordering", "b2"]]


def test_composing_again_names_the_bundle_that_is_there(settings: Settings, calls: Calls) -> None:
    """And starts no process."""
    made = document(run(settings, "compose", "--base", "b1", "--scorer", "b2"))
    assert (made["bundle_id"], made["is_new"], calls) == ("b4", False, [])


def test_a_trial_run_of_composing_only_checks(settings: Settings, calls: Calls) -> None:
    """With the same refusals."""
    options = ("--base", "b1", "--ordering", "b2", "--dry-run")
    assert document(run(settings, "compose", *options))["bundle_id"] == ""
    refused = run(settings, "compose", "--base", "b1", "--scorer", "b0", "--dry-run")
    assert isinstance(refused.exception, BundleError)
    assert calls == []


def test_a_scorer_of_another_training_is_said_to_bring_its_towers(
    settings: Settings, calls: Calls
) -> None:
    """Before it is composed, by the difference, and as data."""
    options = ("compose", "--base", "b1", "--scorer", "b3", "--dry-run")
    found = document(run(settings, *options))
    assert (found["carries_space"], found["n_estimated"]) == (True, 0)
    assert "the scorer with its own towers" in run(settings, *options, as_json=False).stdout
    made = document(run(settings, "diff", "b1", "b3"))
    assert made["exchange"]["scorer of b3 in b1"] == (
        "fits with its own towers, which know 2 of 2 items"
    )
    assert "scorer's space" in made["facts"]
    assert calls == []


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (("--base", "b1"), ConfigError),
        (("--base", "b1", "--scorer", "b1"), ConfigError),
        (("--base", "b8", "--scorer", "b1"), BundleNotFound),
        (("--base", "b1", "--scorer", "b0"), BundleError),
        (("--base", "../b1", "--scorer", "b2"), BundleError),
    ],
)
def test_what_cannot_be_composed_is_refused_before_the_trainer_starts(
    settings: Settings, calls: Calls, options: tuple[str, ...], error: type[Exception]
) -> None:
    """With the error that says why."""
    result = run(settings, "compose", *options)
    assert isinstance(result.exception, error)
    assert calls == []


def test_a_trainer_that_fails_is_an_error(settings: Settings, calls: Calls) -> None:
    """It has said why itself."""
    result = run(settings, "compose", "--base", "b1", "--ordering", "b3")
    assert isinstance(result.exception, (BundleError, ConfigError))


def test_undoing_a_part_composes_stable_with_the_earlier_one(
    settings: Settings, calls: Calls
) -> None:
    """Named, or the latest earlier stable bundle that has another one."""
    console = Console(settings)
    assert undo_part(console, "scorer", "b2") == "b4"
    assert undo_part(console, "ordering", "b2") == "b9"
    assert calls == [["compose", "--base", "b1", "--ordering", "b2"]]
    with pytest.raises(ConfigError, match="none was stable before"):
        undo_part(console, "scorer", None)


def test_undoing_a_part_of_a_composed_bundle_leads_back_to_the_plain_one(
    settings: Settings, calls: Calls
) -> None:
    """No second bundle of the same parts is published."""
    ControlWriter(settings.control_url).set_alias("stable", "b4", "b1")
    assert undo_part(Console(settings), "scorer", "b1") == "b1"
    assert calls == []


def test_undoing_a_part_needs_a_stable_bundle(tmp_path: Path) -> None:
    """And says how to get one."""
    with pytest.raises(FleetError, match="cluster up"):
        undo_part(Console(Settings(data_dir=tmp_path)), "scorer", None)


def test_the_earlier_part_is_the_first_other_one_that_fits(settings: Settings) -> None:
    """What was passed over is named with its reason."""
    registry = Registry(settings.registry_location)
    stable = registry.manifest("b1")
    assert earlier_part(registry, stable, ("b1", "b0", "b9", "b2"), Part.SCORER) == "b2"
    assert earlier_part(registry, stable, ("b3", "b2"), Part.SCORER) == "b3"
    with pytest.raises(ConfigError) as caught:
        earlier_part(registry, stable, ("b0", "b9"), Part.SCORER)
    assert "b0: another feature schema" in str(caught.value)
    assert "b9: bundle b9 is not in" in str(caught.value)


def test_a_pinned_bundle_is_listed_and_stays(settings: Settings) -> None:
    """Until it is let go; both go into the history."""
    let_age(settings, DAY_S, time.time())
    assert document(run(settings, "pin", "b3", "--why", "audit"))["has_changed"]
    assert not document(run(settings, "pin", "b3"))["has_changed"]
    listed = document(run(settings, "list"))["bundles"]
    assert [row["bundle_id"] for row in listed if row["is_pinned"]] == ["b3"]
    assert document(run(settings, "show", "b3"))["is_pinned"]
    assert document(run(settings, "gc", "--keep", "0"))["kept"]["b3"] == "pinned"
    assert document(run(settings, "pin", "b3", "--off"))["has_changed"]
    swept = document(run(settings, "gc", "--keep", "0"))
    assert [row["bundle_id"] for row in swept["removed"]] == ["b3"]
    verbs = [entry.verb for entry in ControlWriter(settings.control_url).history()]
    assert verbs == ["pin", "gc", "unpin", "gc"]


def test_pinning_needs_a_bundle(settings: Settings) -> None:
    """Unpinning one that is gone does not."""
    assert isinstance(run(settings, "pin", "b8").exception, BundleNotFound)
    assert not document(run(settings, "pin", "b8", "--off"))["has_changed"]


def test_composed_bundles_are_listed_with_their_parts(settings: Settings) -> None:
    """As data and as text."""
    listed = {row["bundle_id"]: row for row in document(run(settings, "list"))["bundles"]}
    assert listed["b4"]["composed"] == {"retrieval": "b1", "scorer": "b2", "ordering": "b1"}
    assert listed["b1"]["composed"] is None
    text = " ".join(run(settings, "list", as_json=False).stdout.split())
    assert "scorer b2" in text


def test_the_removal_says_what_went_and_how_much(settings: Settings) -> None:
    """A trial run says it beforehand."""
    let_age(settings, DAY_S, time.time())
    text = run(settings, "gc", "--keep", "1", "--dry-run", as_json=False).stdout
    assert "would remove b3" in text
    assert "kept b1  alias stable" in text
    assert "kept b2  a part of the composed b4" in text
    swept = document(run(settings, "gc", "--keep", "1"))
    assert [row["bundle_id"] for row in swept["removed"]] == ["b0", "b3"]
    assert swept["n_bytes"] > 0
    assert document(run(settings, "gc", "--keep", "1"))["removed"] == []


def test_the_difference_is_printed(settings: Settings) -> None:
    """For a person and for a program."""
    assert "ordering.pool: none -> 9" in run(settings, "diff", "b1", "b2", as_json=False).stdout
    assert document(run(settings, "diff", "b1", "b2"))["exchange"]["scorer of b2 in b1"] == "fits"


@pytest.mark.parametrize("verb", ["compose", "diff", "pin", "gc"])
def test_every_verb_that_changes_explains_itself_with_examples(verb: str) -> None:
    """Without settings."""
    result = CliRunner().invoke(bundle, [verb, "--help"])
    assert result.exit_code == 0
    assert f"cluster bundle {verb}" in result.stdout
