"""Golden answers: a bundle passes its own, and one that was tampered with does not."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundles.bundle import read_manifest
from recsys.bundles.golden import (
    GOLDEN_FILE,
    N_REQUESTS,
    Golden,
    check_golden,
    make_golden,
    read_golden,
    warm_up_batch,
)
from recsys.errors import BundleCorrupt, BundleError
from recsys.settings import Settings
from recsys.stages import Stage, load_stage, stage_names
from recsys.types import Batch
from tests.bundles_for_tests import build_bundle, small_settings


class Changed:
    """A stage whose answers are changed on the way out."""

    nbytes = 0

    def __init__(self, stage: Stage, change: Callable[[Batch], Batch]) -> None:
        self._stage = stage
        self._change = change

    def __call__(self, method: str, batch: Batch) -> Batch:
        return self._change(dict(self._stage(method, batch)))


Loaded = tuple[dict[str, Stage], Golden]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Settings]:
    """A bundle directory, read only."""
    root = tmp_path_factory.mktemp("golden")
    settings = small_settings(root)
    build_bundle(root / "bundle", settings)
    return root / "bundle", settings


@pytest.fixture(scope="module")
def loaded(place: tuple[Path, Settings]) -> Loaded:
    """Its stages and golden file."""
    directory, settings = place
    manifest = read_manifest(directory)
    stages = {name: load_stage(name, directory, manifest, settings) for name in stage_names(2)}
    return stages, read_golden(directory)


def test_every_stage_passes_its_own_golden_answers(loaded: Loaded) -> None:
    """What was written when the bundle was made is what it answers."""
    stages, golden = loaded
    for name, stage in stages.items():
        check_golden(name, stage, golden)
    items = golden["requests"]["items"]["values"]
    assert len(items) == N_REQUESTS
    assert set(items[-1]) == {-1}


def test_the_file_is_plain_json_without_infinities(place: tuple[Path, Settings]) -> None:
    """Any JSON reader can read it."""

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    text = (place[0] / GOLDEN_FILE).read_text()
    assert json.loads(text, parse_constant=refuse)["version"] == 1


@pytest.mark.parametrize(
    ("stage", "array", "message"),
    [
        ("scorer", "user_emb", "encode: user_emb differs"),
        ("scorer", "utility", "score: utility differs"),
        ("shard-000", "scores", "scores differs"),
    ],
)
def test_an_answer_that_differs_is_refused(
    loaded: Loaded, stage: str, array: str, message: str
) -> None:
    """The error names the stage and the array."""
    stages, golden = loaded

    def shift(answer: Batch) -> Batch:
        if array in answer:
            answer[array] = answer[array] + np.float32(0.1)
        return answer

    with pytest.raises(BundleError, match=message):
        check_golden(stage, Changed(stages[stage], shift), golden)


def test_noise_of_another_processor_is_allowed(loaded: Loaded) -> None:
    """Float noise is not a wrong bundle."""
    stages, golden = loaded

    def blur(answer: Batch) -> Batch:
        return {
            name: array * np.float32(1.0001) if array.dtype.kind == "f" else array
            for name, array in answer.items()
        }

    check_golden("scorer", Changed(stages["scorer"], blur), golden)


def test_numbers_that_are_not_finite_are_refused(loaded: Loaded) -> None:
    """A NaN in the weights shows at the first golden request."""
    stages, golden = loaded

    def poison(answer: Batch) -> Batch:
        for name, array in answer.items():
            if array.dtype.kind == "f":
                answer[name] = np.full_like(array, np.nan)
        return answer

    with pytest.raises(BundleError, match="not finite"):
        check_golden("scorer", Changed(stages["scorer"], poison), golden)


def test_a_shard_that_finds_other_items_is_refused(loaded: Loaded) -> None:
    """Shards are not interchangeable."""
    stages, golden = loaded
    with pytest.raises(BundleError, match="finds 0 of"):
        check_golden("shard-000", stages["shard-001"], golden)
    with pytest.raises(BundleError, match="no stage shard-009"):
        check_golden("shard-009", stages["shard-001"], golden)


def test_an_ordering_that_repeats_an_item_is_refused(loaded: Loaded) -> None:
    """Ordering is checked for sense, since settings and a seed decide its answer."""
    stages, golden = loaded

    def repeat(answer: Batch) -> Batch:
        answer["picked"] = np.zeros_like(answer["picked"])
        return answer

    with pytest.raises(BundleError, match="twice"):
        check_golden("ordering", Changed(stages["ordering"], repeat), golden)


def test_making_golden_answers_of_a_poisoned_model_fails(place: tuple[Path, Settings]) -> None:
    """A bundle that answers NaN is never published."""
    from safetensors.numpy import load_file, save_file

    directory, settings = place
    manifest = read_manifest(directory)
    vectors_path = directory / "item_vectors.safetensors"
    original = vectors_path.read_bytes()
    vectors = load_file(vectors_path)["vectors"]
    save_file({"vectors": np.full_like(vectors, np.nan)}, vectors_path)
    try:
        with pytest.raises(BundleError, match="not finite"):
            make_golden(directory, manifest, settings, [])
    finally:
        vectors_path.write_bytes(original)


@pytest.mark.parametrize("method", ["encode", "search", "score", "order"])
@pytest.mark.parametrize("n_requests", [1, 20])
def test_warm_up_batches_have_the_size_asked_for(
    loaded: Loaded, method: str, n_requests: int
) -> None:
    """A warm-up runs what a request will run."""
    stages, golden = loaded
    stage = {"search": "shard-000", "order": "ordering"}.get(method, "scorer")
    answer = stages[stage](method, warm_up_batch(method, golden, n_requests))
    assert {len(array) for array in answer.values()} == {n_requests}


def test_a_broken_file_is_corrupt_by_name(tmp_path: Path, loaded: Loaded) -> None:
    """Missing, half-written or of another shape: the error names the file."""
    with pytest.raises(BundleCorrupt, match=GOLDEN_FILE):
        read_golden(tmp_path)
    (tmp_path / GOLDEN_FILE).write_text('{"version": 1')
    with pytest.raises(BundleCorrupt, match=GOLDEN_FILE):
        read_golden(tmp_path)
    partial = copy.deepcopy(loaded[1])
    del partial["score"]
    (tmp_path / GOLDEN_FILE).write_text(json.dumps(partial))
    with pytest.raises(BundleCorrupt, match="lacks score"):
        read_golden(tmp_path)
