"""The towers as serving runs them: the same embedding as in training, whatever the batch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.errors import BundleCorrupt
from recsys.features import FeatureSchema, history_arrays
from recsys.tower_networks import TowerConfig, TwoTower, gap_buckets
from recsys.two_tower import (
    ITEM_VECTORS_FILE,
    TOWERS_FILE,
    USER_TOWER_FILE,
    UserEncoder,
    left_aligned,
    load_towers,
    load_user_tower,
    save_towers,
)
from recsys.types import Batch, FloatArray, HistoryEvent

N_ITEMS = 30
LENGTH = 12


def a_model(seed: int = 0) -> TwoTower:
    """Towers over thirty items, the last two of which nobody engaged with."""
    torch.manual_seed(seed)
    config = TowerConfig(N_ITEMS, 16, 2, 2, LENGTH, ("view", "like"), 64)
    content = np.full((N_ITEMS, 4), -1, dtype=np.int32)
    content[:, 0] = np.arange(N_ITEMS) % 3
    is_known = np.arange(N_ITEMS) < N_ITEMS - 2
    model = TwoTower(config, content, is_known)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.1)
    return model.eval()


def histories(lengths: list[int], width: int = LENGTH, seed: int = 0) -> Batch:
    """Right-aligned random histories of the given lengths."""
    rng = np.random.default_rng(seed)
    batch: Batch = {
        "items": np.full((len(lengths), width), -1, dtype=np.int32),
        "kinds": np.zeros((len(lengths), width), dtype=np.uint8),
        "ages_s": np.zeros((len(lengths), width), dtype=np.float32),
    }
    for row, length in enumerate(lengths):
        if length:
            batch["items"][row, -length:] = rng.integers(0, N_ITEMS, length)
            batch["kinds"][row, -length:] = rng.integers(1, 4, length)
            batch["ages_s"][row, -length:] = np.sort(rng.integers(0, 10**6, length))[::-1]
    return batch


def test_serving_encodes_a_history_as_training_does() -> None:
    """The state at the last event of a training batch is the embedding that serving answers."""
    model = a_model()
    length = 9
    batch = histories([length])
    events = slice(LENGTH - length, LENGTH)
    ages_s = batch["ages_s"][:, events]
    gaps_s = np.concatenate([[[np.nan]], ages_s[:, :-1] - ages_s[:, 1:]], axis=1)
    vectors = torch.from_numpy(model.item_vectors()[batch["items"][:, events]])
    kinds = torch.from_numpy(batch["kinds"][:, events].astype(np.int64))
    gaps = torch.from_numpy(gap_buckets(gaps_s).astype(np.int64))
    model.train()
    with torch.no_grad():
        states = model.user(vectors, kinds, gaps)
    model.eval()
    found = UserEncoder.of(model).encode(batch)
    np.testing.assert_allclose(found[0], states[0, -1].numpy(), atol=2e-5)


def test_an_embedding_does_not_depend_on_neighbours_or_padding() -> None:
    """The same history alone, among others and in a wider array has the same embedding."""
    encoder = UserEncoder.of(a_model())
    together = histories([3, 12, 0, 7])
    expected = encoder.encode(together)
    for row in range(4):
        alone = {name: values[row : row + 1] for name, values in together.items()}
        np.testing.assert_allclose(encoder.encode(alone)[0], expected[row], atol=1e-5)
        wider = {
            name: np.pad(values, ((0, 0), (9, 0)), constant_values=-1 if name == "items" else 0)
            for name, values in alone.items()
        }
        np.testing.assert_allclose(encoder.encode(wider)[0], expected[row], atol=1e-5)


def test_a_longer_history_is_read_from_its_newest_events() -> None:
    """Events beyond the history length do not change the embedding."""
    encoder = UserEncoder.of(a_model())
    long = histories([20], width=20)
    newest = {name: values[:, -LENGTH:] for name, values in long.items()}
    np.testing.assert_allclose(encoder.encode(long), encoder.encode(newest), atol=1e-5)


def test_an_empty_history_has_the_learned_cold_start_embedding() -> None:
    """Users without history get one finite embedding, and so does an array without columns."""
    encoder = UserEncoder.of(a_model())
    cold = encoder.encode(histories([0, 0, 5]))
    assert np.isfinite(cold).all()
    np.testing.assert_allclose(cold[0], cold[1], atol=1e-6)
    assert np.abs(cold[0] - cold[2]).max() > 1e-3
    np.testing.assert_allclose(encoder.encode(histories([0], width=0))[0], cold[0], atol=1e-5)
    assert encoder.encode(histories([])).shape == (0, 16)


def test_order_kinds_and_ages_of_a_history_matter() -> None:
    """The user tower reads all three."""
    encoder = UserEncoder.of(a_model())
    batch = histories([6])
    plain = encoder.encode(batch)
    for name, changed in (
        ("items", batch["items"][:, ::-1].copy()),
        ("kinds", np.where(batch["kinds"] > 0, 3 - batch["kinds"] % 2, 0).astype(np.uint8)),
        ("ages_s", batch["ages_s"] * 1000),
    ):
        if name == "items":
            changed = np.roll(changed, 6, axis=1)
        assert np.abs(encoder.encode({**batch, name: changed}) - plain).max() > 1e-4


@pytest.mark.parametrize("gap_s", [300, 3_600, 43_200, 259_200, 1_209_600, 7_776_000])
def test_regular_events_embed_alike_whenever_they_are_asked_about(gap_s: int) -> None:
    """Events of equal distance stand on a bound of the buckets, however long ago they were."""
    encoder = UserEncoder.of(a_model())
    schema = FeatureSchema(kinds=("click", "like"), history_length=LENGTH, n_content_buckets=64)
    history = [HistoryEvent(f"i{place}", "click", place * gap_s * 1000) for place in range(6)]
    row_of = {f"i{place}": place for place in range(6)}
    newest_ms = history[-1].timestamp_ms
    moments_ms = newest_ms + np.random.default_rng(3).integers(0, 10**12, 40)
    batch = history_arrays([history] * 40, row_of, schema, moments_ms.tolist())
    *_, gaps, _ = left_aligned(batch, LENGTH)
    expected = gap_buckets(np.array([np.nan, *[float(gap_s)] * 5]))
    np.testing.assert_array_equal(gaps, np.broadcast_to(expected, gaps.shape))
    embedded = encoder.encode(batch)
    np.testing.assert_allclose(embedded, np.broadcast_to(embedded[0], embedded.shape), atol=1e-6)


def test_an_item_nobody_engaged_with_is_placed_by_its_content() -> None:
    """Two unknown items differ by content; their own ids, which nothing trained, say nothing."""
    vectors = a_model().item_vectors()
    assert np.abs(vectors[28] - vectors[29]).max() > 1e-3  # other content
    model = a_model()
    with torch.no_grad():
        model.item.ids[28:] += 1.0
    np.testing.assert_array_equal(model.item_vectors(), vectors)


def content_only(model: TwoTower) -> FloatArray:
    """What content alone gives of every item."""
    rows = torch.arange(N_ITEMS)
    with torch.inference_mode():
        vectors = model.item(rows, torch.ones(N_ITEMS, dtype=torch.bool))
    return np.asarray(vectors.numpy(), np.float32)


def test_an_unknown_item_is_what_items_of_its_content_have_come_to_be() -> None:
    """Ids that stretch and shift what content says do so for unknown items as well."""
    model = a_model()
    before, shift = content_only(model), torch.randn(16)
    with torch.no_grad():
        plain = torch.from_numpy(before)
        model.item.ids.copy_(3.0 * plain + shift - (plain - model.item.unknown_id))
    vectors = model.item_vectors()
    np.testing.assert_allclose(vectors, 3.0 * before + shift.numpy(), atol=1e-5)


def test_without_content_an_unknown_item_is_the_mean_item() -> None:
    """The root of the shares of first engagements weighs; where all or none are known, nothing is
    estimated."""
    config = TowerConfig(4, 8, 1, 1, LENGTH, ("view",), 8)
    nothing = np.full((4, 2), -1, np.int32)
    some = TwoTower(config, nothing, np.asarray([True, True, True, False]))
    with torch.no_grad():
        some.item.ids.mul_(50.0)
    vectors = some.item_vectors()
    weights = np.exp(vectors[:3] @ UserEncoder.of(some).encode(histories([0]))[0] / 2)
    assert weights.std() > 0.1
    np.testing.assert_allclose(vectors[3], weights @ vectors[:3] / weights.sum(), atol=1e-5)
    none = TwoTower(config, nothing, np.zeros(4, np.bool_))
    assert not none.item_vectors().any()  # the unknown-id vector, as it begins
    whole = TwoTower(config, nothing, np.ones(4, np.bool_))
    np.testing.assert_array_equal(whole.item_vectors(), whole.item.ids.detach().numpy())


def test_saved_towers_answer_as_before(tmp_path: Path) -> None:
    """Both ways to load give the embeddings and vectors that were saved."""
    model = a_model()
    save_towers(model, tmp_path)
    batch = histories([4, 0, 12])
    expected = UserEncoder.of(model).encode(batch)
    np.testing.assert_array_equal(load_user_tower(tmp_path).encode(batch), expected)
    again = load_towers(tmp_path).eval()
    np.testing.assert_array_equal(again.item_vectors(), model.item_vectors())
    assert again.config == model.config


@pytest.mark.parametrize("name", [USER_TOWER_FILE, ITEM_VECTORS_FILE, TOWERS_FILE])
@pytest.mark.parametrize("harm", ["missing", "truncated"])
def test_a_harmed_tower_file_is_refused_by_name(tmp_path: Path, name: str, harm: str) -> None:
    """Loading names the file that cannot be used."""
    save_towers(a_model(), tmp_path)
    path = tmp_path / name
    if harm == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(BundleCorrupt, match=name):
        load_user_tower(tmp_path)


def test_towers_of_another_shape_than_their_config_are_refused(tmp_path: Path) -> None:
    """A config that was changed by hand does not load."""
    save_towers(a_model(), tmp_path)
    config = tmp_path / TOWERS_FILE
    config.write_text(config.read_text().replace('"n_layers": 2', '"n_layers": 3'))
    with pytest.raises(BundleCorrupt, match=USER_TOWER_FILE):
        load_user_tower(tmp_path)


def test_gap_buckets_grow_with_the_gap() -> None:
    """No event before is bucket 0; longer gaps never fall into a lower bucket."""
    gaps = gap_buckets(np.array([np.nan, 0.0, 200.0, 4_000.0, 1e5, 1e6, 1e7, 1e9]))
    assert gaps[0] == 0
    assert (np.diff(gaps[1:].astype(int)) >= 0).all()
    assert gaps[1] == 1
    assert len(set(gaps.tolist())) == 6  # the two shortest share one, and so do the longest
