"""In worlds whose truth is known, learning finds it by margins that a broken model cannot reach."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bench.simulated_drift import measure_drift
from bench.simulated_exposure import measure_exposure
from bench.simulated_learning import mean_over_worlds
from bench.simulated_positions import measure_positions

pytestmark = pytest.mark.integration


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Equal results on machines with other numbers of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_a_position_head_recovers_the_true_order_better_than_the_log_read_plainly() -> None:
    """A head that learns nothing makes both scorers one; its examination would stay at 1."""
    results = [measure_positions(seed, n_slates=6000) for seed in range(3)]
    gain = mean_over_worlds([one.debiased - one.naive for one in results])
    assert gain.low > 0, results
    assert min(one.debiased - one.retrieval for one in results) > 0.1
    for one in results:
        for position in (2, 5):
            learned, true = one.examination[position]
            assert learned == pytest.approx(true, abs=0.25)


def test_warm_start_tracks_a_drifting_world(tmp_path: Path) -> None:
    """Also among the items the staying bundle knows, where only tastes moved."""
    for seed in (0, 1):
        one = measure_drift(seed, tmp_path / str(seed), n_users=100, n_items=200, epochs=5)
        assert one.warm > 1.4 * one.stayed
        assert one.warm_on_old_items > 1.4 * one.stayed_on_old_items


def test_new_items_get_exposure(tmp_path: Path) -> None:
    """Nobody engaged with them yet: their content places some, the fresh source and exploration
    together place more and reach nearly all of them.
    """
    for seed in (0, 1):
        arms = measure_exposure(seed, tmp_path / str(seed), n_users=120, n_items=240)
        assert arms["neither"].share > 0.02
        assert arms["both"].share > arms["neither"].share + 0.005
        assert arms["both"].reached > max(arms["neither"].reached + 0.15, 0.85)
        assert arms["both"].share > arms["exploration"].share
