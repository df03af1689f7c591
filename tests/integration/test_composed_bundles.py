"""A bundle composed by the operator's command: it loads, passes its checks, answers as its parts.

Real bundles, the real process of the trainer, and real processes that publish and remove at once.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from cluster.bundles.bundle_commands import bundle
from cluster.bundles.bundle_parts import undo_part
from cluster.console import Console
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.bundles.bundle import MANIFEST_NAME, read_manifest, verify_bundle
from recsys.bundles.golden import read_golden, warm_up_batch
from recsys.bundles.registry import Registry
from recsys.errors import BundleError
from recsys.settings import Settings
from recsys.stages import SCORER, Stage, load_stage, shard_stage_name
from serve_app.residents.bundle_loading import BundleLoader, with_bundle_ordering
from tests.bundles_for_tests import build_bundle, small_settings
from tests.composed_bundles import build_sibling
from tests.parts_for_tests import DAY_S, let_age, publish_parts

pytestmark = pytest.mark.integration

BASE, SIBLING, STRANGER, LONGER = "b0001", "b0002", "b0003", "b0004"


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A registry with a bundle, one of the same towers and another scorer, and one of others."""
    root = tmp_path_factory.mktemp("composed")
    settings = small_settings(root / "var")
    build_bundle(root / BASE, settings, seed=1)
    build_sibling(
        root / SIBLING, root / BASE, settings, seed=2, ordering={"diversity": 0.0, "pool": 12}
    )
    build_bundle(root / STRANGER, settings, seed=3)
    registry = Registry(settings.registry_location)
    for name in (BASE, SIBLING, STRANGER):
        registry.publish(root / name)
    ControlWriter(settings.control_url).set_alias("stable", BASE, None)
    return settings


def run(settings: Settings, *arguments: str) -> Result:
    """The command, as `cluster --json bundle ARGUMENTS`."""
    return CliRunner().invoke(bundle, list(arguments), obj=Console(settings, as_json=True))


def stage_of(settings: Settings, bundle_id: str, name: str) -> Stage:
    """One stage of a published bundle, loaded directly."""
    directory = Registry(settings.registry_location).fetch(bundle_id, settings.data_dir)
    return load_stage(
        name, directory, read_manifest(directory), with_bundle_ordering(settings, directory)
    )


@pytest.fixture(scope="module")
def composed(settings: Settings) -> str:
    """Retrieval of the base; scorer and ordering policy of its sibling."""
    result = run(settings, "compose", "--base", BASE, "--scorer", SIBLING, "--ordering", SIBLING)
    assert result.exit_code == 0, result.exception
    made: dict[str, Any] = json.loads(result.stdout)
    assert made["is_new"]
    return str(made["bundle_id"])


def test_a_composed_bundle_passes_every_check_of_a_replica(
    settings: Settings, composed: str
) -> None:
    """Checksums, embedding space, golden answers, warm-up; gateway part and all stages."""
    loaded = BundleLoader(settings, None, is_gateway=True).load(composed)
    assert set(loaded.stages) == {"scorer", "shard-000", "shard-001", "ordering"}
    assert loaded.gateway is not None
    assert (loaded.gateway.ordering.diversity, loaded.gateway.ordering.pool) == (0.0, 12)


def test_it_answers_with_the_retrieval_of_one_and_the_scorer_of_the_other(
    settings: Settings, composed: str
) -> None:
    """Number by number as those bundles' own stages answer, and not as the others'."""
    golden = read_golden(Registry(settings.registry_location).fetch(STRANGER, settings.data_dir))
    batch = warm_up_batch("encode", golden, 6)
    answers: dict[str, Any] = {}
    for name in (BASE, SIBLING, composed):
        scorer = stage_of(settings, name, SCORER)
        encoded = scorer("encode", batch)
        query = {**encoded, "k": np.asarray([15], np.int32)}
        found = stage_of(settings, name, shard_stage_name(1))("search", query)
        rows = found["rows"].astype(np.int32)
        candidates = {
            "rows": rows,
            "sources": np.zeros(rows.shape, np.int8),
            "ranks": np.zeros(rows.shape, np.int32),
        }
        scored = scorer("score", {**batch, **encoded, **candidates})
        ordered = stage_of(settings, name, "ordering")(
            "order",
            {
                "rows": rows,
                "utility": answers.get(SIBLING, {"utility": scored["utility"]})["utility"],
                "k": np.full(len(rows), 8, np.int32),
                "seeds": np.arange(len(rows), dtype=np.uint64),
            },
        )
        answers[name] = {**encoded, **found, **scored, "picked": ordered["picked"]}
    for part, owner in (
        ("user_emb", BASE),
        ("rows", BASE),
        ("scores", BASE),
        ("utility", SIBLING),
        ("probabilities", SIBLING),
        ("picked", SIBLING),
    ):
        np.testing.assert_array_equal(answers[composed][part], answers[owner][part])
    assert not np.array_equal(answers[composed]["utility"], answers[BASE]["utility"])


def test_it_says_where_it_came_from(settings: Settings, composed: str) -> None:
    """Parents, origins, and no metrics, because nothing measured it."""
    manifest = Registry(settings.registry_location).manifest(composed)
    assert manifest.parents == (BASE, SIBLING)
    assert manifest.lineage["composed"] == {
        "retrieval": BASE,
        "scorer": SIBLING,
        "ordering": SIBLING,
    }
    assert "train_until_ms" not in manifest.lineage
    assert manifest.metrics == {}
    found = json.loads(run(settings, "diff", BASE, composed).stdout)
    assert set(found["files"]) == {"golden.json", "scorer.safetensors", "settings.json"} | (
        {"scorer.json"} & set(found["files"])
    )
    assert found["items"]["has_same_rows"]


def test_a_part_is_undone_by_leading_back_to_the_bundles_that_had_it(
    settings: Settings, composed: str
) -> None:
    """Both parts taken back are the plain bundle, one of them a composition of its own."""
    writer = ControlWriter(settings.control_url)
    writer.set_alias("stable", composed, BASE)
    try:
        half = undo_part(Console(settings), "scorer", BASE)
        manifest = Registry(settings.registry_location).manifest(half)
        assert manifest.lineage["composed"]["scorer"] == BASE
        assert manifest.lineage["composed"]["ordering"] == SIBLING
        assert undo_part(Console(settings), "scorer", BASE) == half
        writer.set_alias("stable", half, composed)
        assert undo_part(Console(settings), "ordering", BASE) == BASE
        writer.set_alias("stable", composed, half)
    finally:
        writer.set_alias("stable", BASE, composed)


def test_a_scorer_of_another_training_is_rolled_back_to_with_its_towers(
    settings: Settings,
) -> None:
    """By the operator's undo of a part; a replica loads it and it scores as at home."""
    console = Console(settings)
    made = undo_part(console, "scorer", STRANGER)
    assert undo_part(console, "scorer", STRANGER) == made
    manifest = Registry(settings.registry_location).manifest(made)
    home = Registry(settings.registry_location).manifest(STRANGER)
    assert manifest.scorer_space is not None
    assert manifest.scorer_space.fingerprint == home.space_fingerprint
    loaded = BundleLoader(settings, None, is_gateway=True).load(made)
    golden = read_golden(Registry(settings.registry_location).fetch(STRANGER, settings.data_dir))
    batch = warm_up_batch("score", golden, 6)
    theirs = stage_of(settings, STRANGER, SCORER)("score", batch)
    own = loaded.stages[SCORER]
    encoded = own("encode", batch)
    scored = own("score", {**batch, **encoded})
    np.testing.assert_allclose(scored["utility"], theirs["utility"], atol=1e-6)
    assert json.loads(run(settings, "diff", BASE, made).stdout)["facts"]["scorer's space"]


def test_a_scorer_that_reads_other_histories_is_refused_with_what_would_fit(
    settings: Settings, tmp_path: Path
) -> None:
    """By the operator's command, and by the trainer's process if asked directly."""
    build_bundle(tmp_path / LONGER, settings, seed=4, history_length=30)
    Registry(settings.registry_location).publish(tmp_path / LONGER)
    result = run(settings, "compose", "--base", BASE, "--scorer", LONGER)
    assert isinstance(result.exception, BundleError)
    assert SIBLING in str(result.exception)
    settings_file = settings.data_dir / "settings.json"
    settings_file.write_text(settings.model_dump_json())
    options = ["--settings", str(settings_file), "--base", BASE, "--scorer", LONGER]
    asked = subprocess.run(
        [sys.executable, "-m", "train_app", "compose", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 1
    assert asked.stderr.startswith(f"error: scorer of {LONGER} does not fit {BASE}: feature schema")


def test_a_damaged_part_is_never_published(settings: Settings, tmp_path: Path) -> None:
    """The scorer's file was changed in place; the registry is what it was."""
    damaged = Path(settings.registry_location, SIBLING, "scorer.safetensors")
    content = damaged.read_bytes()
    before = sorted(Path(settings.registry_location).iterdir())
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        result = run(settings, "compose", "--base", BASE, "--scorer", SIBLING)
    finally:
        damaged.write_bytes(content)
    assert isinstance(result.exception, BundleError)
    assert sorted(Path(settings.registry_location).iterdir()) == before


_PUBLISH = """
import sys, time
from pathlib import Path
from recsys.bundles.bundle import read_manifest
from recsys.bundles.registry import Registry
from train_app.publish import publish_bundle
registry = Registry(sys.argv[1])
for staging in sorted(Path(sys.argv[2]).iterdir()):
    print(publish_bundle(staging, registry).bundle_id, flush=True)
"""


def test_two_removals_beside_a_training_that_publishes(tmp_path: Path) -> None:
    """Each old bundle goes once, each new one stays whole, and nothing half is left."""
    settings = Settings(data_dir=tmp_path / "var")
    old = [f"old{n:02d}" for n in range(20)]
    for second, name in enumerate(old):
        publish_parts(settings, tmp_path / "old", name, second=second)
    let_age(settings, DAY_S, time.time())
    ControlWriter(settings.control_url).set_alias("stable", old[0], None)
    later = Settings(data_dir=tmp_path / "later")
    for second in range(40):
        publish_parts(later, tmp_path / "new", f"new{second:02d}", second=second)
    registry = Path(settings.registry_location)
    publishing = subprocess.Popen(
        [sys.executable, "-c", _PUBLISH, str(registry), str(tmp_path / "new")],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert publishing.stdout is not None
    first = publishing.stdout.readline().strip()
    config = tmp_path / "flywheel.toml"
    config.write_text(f'data_dir = "{settings.data_dir}"\n')
    command = [sys.executable, "-m", "cluster", "--config", str(config), "--json"]
    command += ["bundle", "gc", "--keep", "0"]
    sweeps = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [sweep.communicate(timeout=240)[0] for sweep in sweeps]
    published = [first, *publishing.communicate(timeout=240)[0].split()]
    assert [sweep.returncode for sweep in sweeps] == [0, 0]
    assert publishing.returncode == 0
    removed = [row["bundle_id"] for text in outputs for row in json.loads(text)["removed"]]
    assert sorted(removed) == old[1:]
    assert len(published) == 40
    for name in (old[0], *published):
        assert verify_bundle(registry / name).bundle_id == name
    left = {path.name for path in registry.iterdir()}
    assert left == {old[0], *published}
    assert not list(registry.rglob(f"{MANIFEST_NAME}.tmp"))
