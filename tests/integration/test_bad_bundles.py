"""Bundles that must never answer: each is refused by a replica's load check, and says why.

Every one is published whole and with right checksums, as a broken training would leave it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from recsys.bundles.bundle import MANIFEST_NAME, read_manifest
from recsys.bundles.golden import GOLDEN_FILE, read_golden, remake_golden
from recsys.bundles.manifest_text import render
from recsys.bundles.registry import Registry
from recsys.errors import (
    BundleCorrupt,
    BundleError,
    FeatureSchemaMismatch,
    RecsysError,
    SpaceMismatch,
)
from recsys.features import FeatureSchema
from recsys.scorer import CandidateScorer, load_scorer, save_scorer
from recsys.scorer_network import ScorerNetwork
from recsys.settings import Settings
from serve_app.residents.bundle_loading import BundleLoader
from serve_app.residents.load_checks import Memory
from serve_app.residents.resident import FAILED, READY, ResidentBundles
from tests.bundles_for_tests import build_bundle, small_settings, write_as

pytestmark = pytest.mark.integration

GOOD, OTHER, BAD = "b0001", "b0002", "bad"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """Two good bundles of other weights, outside and inside the registry."""
    root = tmp_path_factory.mktemp("bad")
    settings = small_settings(root / "var")
    for seed, name in enumerate((GOOD, OTHER), start=1):
        build_bundle(root / name, settings, seed=seed)
        Registry(settings.registry_location).publish(root / name)
    return root, settings


def publish_spoilt(
    place: tuple[Path, Settings], folder: Path, spoil: Callable[[Path, Path, Settings], None]
) -> Settings:
    """A registry with the good bundle and one that `spoil` was let at."""
    root, settings = place
    own = settings.model_copy(update={"data_dir": folder / "var"})
    registry = Registry(own.registry_location)
    registry.publish(root / GOOD)
    staging = folder / BAD
    shutil.copytree(root / GOOD, staging)
    (staging / MANIFEST_NAME).unlink()
    spoil(staging, root, settings)
    if not (staging / MANIFEST_NAME).exists():
        write_as(staging, read_manifest(root / GOOD), BAD)
    registry.publish(staging)
    return own


def nan_weights(staging: Path, root: Path, settings: Settings) -> None:
    """A training that diverged."""
    path = staging / "scorer.safetensors"
    state = load_file(path)
    state["network.residual_head.bias"] = torch.full((1,), torch.nan)
    save_file(state, path)


def nan_everywhere(staging: Path, root: Path, settings: Settings) -> None:
    """Likewise, with golden answers to match."""
    nan_weights(staging, root, settings)
    path = staging / GOLDEN_FILE
    golden = json.loads(path.read_text())
    golden["score"]["utility"]["values"] = [
        [None] * len(row) for row in golden["score"]["utility"]["values"]
    ]
    path.write_text(json.dumps(golden))


def constant_scores(staging: Path, root: Path, settings: Settings) -> None:
    """Nothing is worth anything, and the golden answers agree."""
    path = staging / "scorer.json"
    config = json.loads(path.read_text())
    config["utility_weights"] = [0.0] * len(config["utility_weights"])
    path.write_text(json.dumps(config))
    golden = json.loads((staging / GOLDEN_FILE).read_text())
    golden["score"]["utility"]["values"] = [
        [None if value is None else 0.0 for value in row]
        for row in golden["score"]["utility"]["values"]
    ]
    (staging / GOLDEN_FILE).write_text(json.dumps(golden))


def wrong_dimension(staging: Path, root: Path, settings: Settings) -> None:
    """Vectors that are half as wide as the towers say."""
    path = staging / "item_vectors.safetensors"
    save_file({"vectors": load_file(path)["vectors"][:, :8].contiguous()}, path)


def index_of_another_space(staging: Path, root: Path, settings: Settings) -> None:
    """An index that was built from other towers."""
    shutil.rmtree(staging / "index")
    shutil.copytree(root / OTHER / "index", staging / "index")


def scorer_of_another_space(staging: Path, root: Path, settings: Settings) -> None:
    """Files fit each other in shape, and in nothing else."""
    shutil.copyfile(root / OTHER / "scorer.safetensors", staging / "scorer.safetensors")


def stage_that_raises(staging: Path, root: Path, settings: Settings) -> None:
    """A file that is whole by its checksum and nothing by its content."""
    (staging / "scorer.safetensors").write_bytes(b"no tensors here")


def stage_that_raises_when_asked(staging: Path, root: Path, settings: Settings) -> None:
    """Golden requests that no stage can read, as a feature that was renamed would leave them."""
    golden = json.loads((staging / GOLDEN_FILE).read_text())
    golden["requests"]["renamed"] = golden["requests"].pop("ages_s")
    (staging / GOLDEN_FILE).write_text(json.dumps(golden))


def ten_times_slower(staging: Path, root: Path, settings: Settings) -> None:
    """A scorer that is far too large for a request; its answers are right."""
    scorer = load_scorer(staging)
    torch.manual_seed(0)
    config = replace(scorer.config, hidden_dims=(1024, 1024, 1024, 1024))
    network = ScorerNetwork(config)
    torch.nn.init.normal_(network.residual_head.weight, std=0.1)
    save_scorer(CandidateScorer(config, network.eval(), scorer.vectors, scorer.popularity), staging)
    good = read_manifest(root / GOOD)
    remake_golden(staging, good, settings, read_golden(staging))


def kind_the_towers_never_met(staging: Path, root: Path, settings: Settings) -> None:
    """A manifest of another feature schema: nobody with the new kind could be encoded."""
    good = read_manifest(root / GOOD)
    schema = FeatureSchema.from_json(good.feature_schema)
    longer = replace(schema, kinds=(*schema.kinds, "share"))
    write_as(
        staging,
        replace(good, feature_schema=longer.to_json(), feature_schema_hash=longer.hash),
        BAD,
    )


def fingerprint_of_another_space(staging: Path, root: Path, settings: Settings) -> None:
    """Towers and vectors that are not those the manifest was written for."""
    write_as(staging, read_manifest(root / GOOD), BAD)
    path = staging / MANIFEST_NAME
    document = json.loads(path.read_text())
    document["space_fingerprint"] = read_manifest(root / OTHER).space_fingerprint
    path.write_bytes(render(document))


@pytest.mark.parametrize(
    ("spoil", "error", "reason"),
    [
        (nan_weights, BundleError, "not finite"),
        (nan_everywhere, BundleError, "not finite"),
        (constant_scores, BundleError, "same utility"),
        (wrong_dimension, BundleCorrupt, r"vectors of shape \(120, 8\), expected \(120, 16\)"),
        (kind_the_towers_never_met, FeatureSchemaMismatch, "made for kinds .*'share'"),
        (fingerprint_of_another_space, SpaceMismatch, "its manifest says"),
        (index_of_another_space, SpaceMismatch, "embedding space|space"),
        (scorer_of_another_space, BundleError, "differs from the golden answer"),
        (stage_that_raises, BundleCorrupt, "scorer.safetensors"),
        (stage_that_raises_when_asked, KeyError, "ages_s"),
        (ten_times_slower, BundleError, "scorer takes .* in b0001, which answers users"),
    ],
)
def test_a_bad_bundle_is_refused_before_traffic(
    place: tuple[Path, Settings],
    tmp_path: Path,
    spoil: Callable[[Path, Path, Settings], None],
    error: type[Exception],
    reason: str,
) -> None:
    """Its reason is what the replica reports; the good one beside it stays."""
    settings = publish_spoilt(place, tmp_path, spoil)
    loader = BundleLoader(settings, None, is_gateway=True, stable_id=lambda: GOOD)
    with pytest.raises(error, match=reason):
        held = loader.load(GOOD)
        loader.load(BAD)
    assert set(held.stages) == {"scorer", "shard-000", "shard-001", "ordering"}
    clock = iter(range(1_000_000))
    residents = ResidentBundles(loader.load, 1.0, lambda: float(next(clock)))
    residents.require((GOOD, BAD))
    residents.turn()
    residents.turn()
    states = residents.states()
    assert states[GOOD] == (READY, "")
    assert states[BAD][0] == FAILED
    assert states[BAD][1]


def test_a_changed_file_is_refused(place: tuple[Path, Settings], tmp_path: Path) -> None:
    """One bit, in the registry, after it was published."""
    settings = publish_spoilt(place, tmp_path, lambda staging, root, settings: None)
    path = Path(settings.registry_location, BAD, "item_vectors.safetensors")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(BundleCorrupt, match=r"item_vectors.safetensors of bundle bad was changed"):
        BundleLoader(settings, None, is_gateway=True).load(BAD)


def test_a_bundle_that_would_exhaust_the_node_is_refused(place: tuple[Path, Settings]) -> None:
    """Before anything of it is held; with room, the same bundle loads."""
    _, settings = place
    for stages, is_gateway in ((None, True), (("scorer",), False), (("ordering",), False)):
        loader = BundleLoader(
            settings, stages, is_gateway=is_gateway, memory=lambda: Memory(5_000, 10_000)
        )
        with pytest.raises(RecsysError, match="MB to spare"):
            loader.load(GOOD)
    assert BundleLoader(settings, None, is_gateway=True).load(GOOD).gateway is not None


def test_a_good_bundle_passes_beside_another(place: tuple[Path, Settings]) -> None:
    """Twice over, in either order: the checks refuse nothing that is sound."""
    _, settings = place
    loader = BundleLoader(settings, None, is_gateway=True, stable_id=lambda: GOOD)
    held = [loader.load(name) for name in (GOOD, OTHER, GOOD, OTHER)]
    assert [len(bundle.stages) for bundle in held] == [4, 4, 4, 4]
