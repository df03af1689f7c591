"""A scorer over the retrieval of another training: it scores what it scored at home."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.bundles.bundle import (
    SCORER_SPACE_FORMAT,
    Manifest,
    read_manifest,
    verify_bundle,
)
from recsys.bundles.composition import plan_composition
from recsys.bundles.golden import check_golden, read_golden
from recsys.bundles.item_table import ITEMS_FILE, ItemTable
from recsys.bundles.registry import Registry
from recsys.bundles.scorer_space import SCORER_SPACE, SCORER_SPACE_FILES, ScorerSpace
from recsys.features import FeatureSchema, history_arrays
from recsys.item_successors import ItemSuccessors
from recsys.learning_settings import TowerSettings
from recsys.scorer import CandidateScorer, load_scorer, save_scorer
from recsys.scorer_network import ScorerNetwork
from recsys.settings import Settings
from recsys.stages import SCORER, Stage, load_stage, stage_names
from recsys.two_tower import load_user_tower, read_tower_config
from recsys.types import Batch, FloatArray, Source
from tests.bundles_for_tests import KINDS, NOW_MS, build_bundle, small_history, small_settings
from train_app.composing.carried_space import estimated_vectors, read_items, write_scorer_space
from train_app.composing.compose_bundle import publish_composition
from train_app.evaluation.rankers import BundleParts
from train_app.learning.warm_start import of_shape, start_scorer_from

N_ITEMS = 120
HOME, OTHER, FEWER = "b0001", "b0002", "b0003"
LACKING = 12


@dataclass(frozen=True)
class Place:
    """A registry with three trainings, and the settings that made it."""

    settings: Settings

    @property
    def registry(self) -> Registry:
        """Where they are published."""
        return Registry(self.settings.registry_location)

    def directory(self, bundle_id: str) -> Path:
        """The bundle's own directory."""
        return Path(self.settings.registry_location, bundle_id)

    def compose(self, base: str, scorer: str) -> Manifest:
        """The scorer of one training over the retrieval of another."""
        plan = plan_composition(self.registry, base, scorer, None)
        if plan.existing is not None:
            return self.registry.manifest(plan.existing)
        return publish_composition(plan, self.registry, self.settings, lambda: datetime.now(UTC))

    def stage(self, bundle_id: str, name: str = SCORER) -> Stage:
        """A loaded stage."""
        directory = self.directory(bundle_id)
        return load_stage(name, directory, read_manifest(directory), self.settings)

    def batch(self, bundle_id: str, item_ids: list[str], n_requests: int = 5) -> Batch:
        """The same users and the same candidates in the rows of a bundle, encoded by it."""
        manifest = self.registry.manifest(bundle_id)
        row_of = ItemTable.read(self.directory(bundle_id)).row_of
        histories = [small_history(seed, N_ITEMS - LACKING) for seed in range(n_requests - 1)]
        features = history_arrays(
            [*histories, []],
            row_of,
            FeatureSchema.from_json(manifest.feature_schema),
            [NOW_MS] * n_requests,
        )
        rows = np.tile([row_of.get(name, -1) for name in item_ids], (n_requests, 1))
        return {
            **features,
            **self.stage(bundle_id)("encode", features),
            "rows": rows.astype(np.int32),
            "sources": np.full(rows.shape, Source.INDEX, np.int8),
            "ranks": np.tile(np.arange(rows.shape[1], dtype=np.int32), (n_requests, 1)),
        }

    def vectors(self, directory: Path) -> FloatArray:
        """The item vectors that lie in a directory."""
        from safetensors.numpy import load_file

        return load_file(directory / "item_vectors.safetensors")["vectors"]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A training, one of another width in other rows, and one that knew fewer items."""
    root = tmp_path_factory.mktemp("carried")
    settings = small_settings(root / "var")
    place = Place(settings)
    build_bundle(root / HOME, settings, seed=1)
    build_bundle(root / OTHER, settings, seed=2, dim=24, rows=range(N_ITEMS)[::-1])
    build_bundle(root / FEWER, settings, seed=3, rows=range(N_ITEMS - LACKING))
    for name in (HOME, OTHER, FEWER):
        place.registry.publish(root / name)
    return place


@pytest.fixture(scope="module")
def carried(place: Place) -> str:
    """Retrieval of HOME, scorer of OTHER."""
    return place.compose(HOME, OTHER).bundle_id


def test_the_scores_are_those_of_the_scorers_own_bundle(place: Place, carried: str) -> None:
    """Of the same candidates for the same histories, though width and rows are others."""
    names = [f"i{n}" for n in range(0, 100, 7)] + ["no such item"]
    home = place.stage(OTHER)("score", place.batch(OTHER, names))
    made = place.stage(carried)("score", place.batch(carried, names))
    usable = np.isfinite(home["utility"])
    for part in ("probabilities", "utility"):
        np.testing.assert_allclose(made[part][usable], home[part][usable], atol=1e-6)
    assert usable.sum() == 5 * (len(names) - 1)
    np.testing.assert_array_equal(np.isfinite(made["utility"]), usable)


def test_retrieval_and_what_is_told_of_it_are_the_bases(place: Place, carried: str) -> None:
    """User embeddings, and exact inner products of the vectors that the index was built from."""
    names = [f"i{n}" for n in range(30)]
    batch = place.batch(carried, names)
    np.testing.assert_array_equal(batch["user_emb"], place.batch(HOME, names)["user_emb"])
    vectors = place.vectors(place.directory(HOME))
    expected = np.einsum("bd,bcd->bc", batch["user_emb"], vectors[batch["rows"]])
    told = place.stage(carried)("score", batch)["retrieval_scores"]
    np.testing.assert_allclose(told, expected, rtol=1e-4, atol=1e-5)


def test_a_scorer_carried_over_its_own_retrieval_answers_as_before(
    place: Place, tmp_path: Path
) -> None:
    """The same bundle with and without a folder for the scorer, stage by stage."""
    shutil.copytree(place.directory(HOME), tmp_path / "again")
    folder = tmp_path / "again" / SCORER_SPACE
    folder.mkdir()
    for name in SCORER_SPACE_FILES:
        shutil.copyfile(place.directory(HOME) / Path(name).name, tmp_path / "again" / name)
    manifest = place.registry.manifest(HOME)
    again = load_stage(SCORER, tmp_path / "again", manifest, place.settings)
    batch = place.batch(HOME, [f"i{n}" for n in range(60)])
    asked = {**batch, "n_events": np.asarray([4], np.int32)}
    for method in ("encode", "score", "attribute"):
        plain, own = place.stage(HOME)(method, asked), again(method, asked)
        for name, values in plain.items():
            np.testing.assert_allclose(own[name], values, rtol=1e-4, atol=1e-5)


def test_an_explanation_leaves_events_out_for_the_scorers_own_tower(
    place: Place, carried: str
) -> None:
    """What an item owes to an event is what it owes to it in the scorer's own bundle."""
    names = [f"i{n}" for n in range(20)]
    answers = [
        place.stage(name)(
            "attribute", {**place.batch(name, names), "n_events": np.asarray([3], np.int32)}
        )
        for name in (OTHER, carried)
    ]
    np.testing.assert_allclose(answers[1]["events"], answers[0]["events"], atol=1e-6)
    np.testing.assert_allclose(answers[1]["features"], answers[0]["features"], atol=1e-6)


def test_the_bundle_is_whole_and_says_whose_space_it_scores_in(place: Place, carried: str) -> None:
    """Checksums, golden answers of every stage, and a format that an older program refuses."""
    manifest = verify_bundle(place.directory(carried))
    other = place.registry.manifest(OTHER)
    assert manifest.scorer_space == ScorerSpace(other.space_fingerprint, 24, 0)
    assert manifest.format_version == SCORER_SPACE_FORMAT
    assert manifest.space_fingerprint == place.registry.manifest(HOME).space_fingerprint
    assert (manifest.embedding_dim, manifest.parents) == (16, (HOME, OTHER))
    golden = read_golden(place.directory(carried))
    for name in stage_names(2):
        check_golden(name, place.stage(carried, name), golden)
    assert place.stage(carried).nbytes > place.stage(HOME).nbytes


def test_items_that_the_towers_never_met_are_estimated(place: Place) -> None:
    """From their content, as the same towers estimate a new item; the others only move."""
    made = place.compose(HOME, FEWER)
    assert made.scorer_space is not None
    assert made.scorer_space.n_estimated == LACKING
    folder = place.directory(made.bundle_id) / SCORER_SPACE
    vectors, known = place.vectors(folder), place.vectors(place.directory(FEWER))
    np.testing.assert_array_equal(vectors[: len(known)], known)
    assert read_tower_config(folder).n_items == N_ITEMS
    assert load_user_tower(folder).encode(place.batch(HOME, ["i1"])).shape == (5, 16)
    items = read_items(place.directory(HOME))[:2]
    first, again, second = estimated_vectors(place.directory(FEWER), [items[0], items[0], items[1]])
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    new = vectors[len(known) :]
    assert np.isfinite(new).all()
    assert len(np.unique(new, axis=0)) == LACKING
    spread = np.linalg.norm(new - known.mean(0), axis=1).max()
    assert spread <= 2 * np.linalg.norm(known - known.mean(0), axis=1).max()


def test_what_follows_what_moves_with_the_items(place: Place, tmp_path: Path) -> None:
    """The scorer's table says of the same items what it said at home."""
    donor, made = tmp_path / "donor", tmp_path / "made"
    shutil.copytree(place.directory(OTHER), donor)
    made.mkdir()
    shutil.copyfile(place.directory(HOME) / ITEMS_FILE, made / ITEMS_FILE)
    rng = np.random.default_rng(5)
    table = ItemSuccessors(
        np.arange(N_ITEMS + 1) * 3,
        np.concatenate([rng.permutation(N_ITEMS)[:3] for _ in range(N_ITEMS)]).astype(np.int32),
        rng.uniform(0.01, 0.3, 3 * N_ITEMS).astype(np.float32),
        rng.dirichlet(np.ones(N_ITEMS)).astype(np.float32) + 1e-6,
    )
    plain = load_scorer(donor)
    config = replace(plain.config, reads_successors=True)
    network = ScorerNetwork(config)
    save_scorer(CandidateScorer(config, network, plain.vectors, plain.popularity, table), donor)
    write_scorer_space(made, donor)
    moved = load_scorer(made / SCORER_SPACE).successors
    assert moved is not None
    row_of = [ItemTable.read(directory).row_of for directory in (donor, made)]
    names = [f"i{n}" for n in range(0, N_ITEMS, 4)]
    at_home, here = (
        successors.log_chances(
            np.asarray([[rows[f"i{n}"] for n in (3, 50, 3, 117)]], np.int32),
            np.asarray([[rows[name] for name in names]], np.int32),
        )
        for successors, rows in zip((table, moved), row_of, strict=True)
    )
    np.testing.assert_allclose(here, at_home, rtol=1e-5)
    assert len(np.unique(at_home)) > len(names) / 2


def test_a_carried_scorer_stays_when_another_part_is_taken(place: Place, carried: str) -> None:
    """Another ordering policy moves no file of it; the base's own scorer puts it away again."""
    manifest = place.registry.manifest(carried)
    settings = place.settings.model_copy(
        update={"ordering": place.settings.ordering.model_copy(update={"pool": 7})}
    )
    donor = place.settings.data_dir / "b0004"
    if not donor.exists():
        build_bundle(donor, settings, seed=4)
        place.registry.publish(donor)
    plan = plan_composition(place.registry, carried, None, "b0004")
    made = publish_composition(plan, place.registry, place.settings, lambda: datetime.now(UTC))
    assert made.scorer_space == manifest.scorer_space
    for name in SCORER_SPACE_FILES:
        assert made.files[name] == manifest.files[name]
    assert place.compose(carried, HOME).bundle_id == HOME


def test_a_warm_start_goes_on_from_the_towers_that_retrieve(place: Place, carried: str) -> None:
    """The scorer starts anew, and that is said."""
    directory = place.directory(carried)
    towers, said = of_shape(TowerSettings(), directory)
    assert towers.embedding_dim == 16
    assert "the scorer from nothing" in said[0]
    network = ScorerNetwork(load_scorer(place.directory(HOME)).config)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert not start_scorer_from(network, KINDS, directory)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())


def test_two_trainings_make_four_pages(place: Place, carried: str) -> None:
    """Each retrieval with each scorer: found as the one finds, scored as the other scores."""
    back = place.compose(OTHER, HOME)
    assert back.parents == (OTHER, HOME)
    names = [f"i{n}" for n in range(0, 60, 3)]
    cells = {
        name: {**place.batch(name, names), **place.stage(name)("score", place.batch(name, names))}
        for name in (HOME, OTHER, carried, back.bundle_id)
    }
    for made, retrieval, scorer in ((carried, HOME, OTHER), (back.bundle_id, OTHER, HOME)):
        np.testing.assert_array_equal(cells[made]["user_emb"], cells[retrieval]["user_emb"])
        np.testing.assert_allclose(
            cells[made]["retrieval_scores"], cells[retrieval]["retrieval_scores"], atol=1e-5
        )
        np.testing.assert_allclose(cells[made]["utility"], cells[scorer]["utility"], atol=1e-6)
    assert not np.allclose(cells[HOME]["utility"], cells[OTHER]["utility"], atol=1e-3)


def test_an_evaluation_ranks_with_the_scorers_own_tower(place: Place, carried: str) -> None:
    """By the very stage that serves."""
    directory = place.directory(carried)
    parts = BundleParts.load(directory, read_manifest(directory), place.settings)
    batch = place.batch(carried, [f"i{n}" for n in range(25)])
    order = np.argsort(-parts.scorer("score", batch)["utility"], axis=1)
    home = place.stage(OTHER)("score", place.batch(OTHER, [f"i{n}" for n in range(25)]))
    np.testing.assert_array_equal(order, np.argsort(-home["utility"], axis=1))
    np.testing.assert_array_equal(parts.vectors, place.vectors(place.directory(HOME)))
