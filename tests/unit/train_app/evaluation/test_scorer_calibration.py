"""Reliability of probabilities, and stages that are watched while a bundle ranks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.untrained_models import small_settings, some_interactions, write_untrained_models
from train_app.evaluation.breakdown import scorer_calibration
from train_app.evaluation.breakdown.candidate_budgets import budget_section
from train_app.evaluation.breakdown.scorer_calibration import (
    Predictions,
    Reliability,
    calibration_sections,
    equal_bins,
    predictions_of,
)
from train_app.evaluation.breakdown.watched_stages import watched
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.metrics import Interval
from train_app.evaluation.rankers import BundleParts, BundleRanker
from train_app.publish import assemble


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> tuple[BundleParts, HeldOut]:
    """An untrained bundle and what is held out."""
    folder: Path = tmp_path_factory.mktemp("bundle")
    set_, data = small_settings(folder), some_interactions()
    write_untrained_models(data, set_, folder / "m", warm_start=None, report=lambda *_: None)
    draft = assemble(folder / "m", folder / "b", data, set_, lambda *_: None)
    held_out = hold_out("leave-one-out", data, cutoff_ms=0, negative_kinds=(), seed=0)
    return BundleParts.load(folder / "b", draft, set_), held_out


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20))
def test_bins_hold_about_equally_many_and_keep_the_order(said: list[float], n_bins: int) -> None:
    """Bins rise with the probability, equal ones share a bin, and there are no empty bins."""
    probabilities = np.asarray(said, np.float64)
    bins = equal_bins(probabilities, n_bins)
    order = np.argsort(probabilities, kind="stable")
    assert (np.diff(bins[order]) >= 0).all()
    assert set(bins.tolist()) == set(range(len(set(bins.tolist()))))
    for one in np.unique(probabilities):
        assert len(set(bins[probabilities == one].tolist())) == 1


def test_true_probabilities_have_almost_no_error_and_doubled_ones_a_known_one() -> None:
    """ECE of draws from the stated probabilities is noise; of half as many it is half the mean."""
    rng = np.random.default_rng(0)
    said = rng.uniform(0, 0.4, 200_000)
    assert Reliability.of(said, rng.random(200_000) < said).ece < 0.004
    halved = Reliability.of(said, rng.random(200_000) < said / 2).ece
    assert halved == pytest.approx(said.mean() / 2, abs=0.004)
    assert Reliability.of(np.zeros(0), np.zeros(0, np.bool_)).ece == 0.0


def test_predictions_are_of_every_candidate_and_only_the_target_happens(
    bundle: tuple[BundleParts, HeldOut],
) -> None:
    """As many happen as targets were retrieved, each with the kind of the held-out engagement."""
    parts, held_out = bundle
    found = predictions_of(parts, held_out, 20, ())
    assert set(found.names) == {"click", "like"}
    retrieved = BundleRanker(parts, held_out.interactions, 20)(held_out)["page"]
    n_found = int((retrieved == held_out.targets[:, None]).any(axis=1).sum())
    assert int(found.happened.sum()) == n_found
    assert len(found.probabilities) == 2 * int((retrieved >= 0).sum())
    assert ((found.probabilities > 0) & (found.probabilities < 1)).all()
    assert predictions_of(parts, held_out, 20, ("like",)).names == ("click",)


def test_the_calibration_table_has_an_interval_around_its_error(
    bundle: tuple[BundleParts, HeldOut],
) -> None:
    """One row per kind; bins add up to the predictions."""
    parts, held_out = bundle
    table, bins = calibration_sections(parts, held_out, 20, (), seed=0)
    for row in table.rows:
        interval = row[-1]
        assert isinstance(interval, Interval)
        assert interval.low <= interval.mean <= interval.high
    counts = [row[1] for row in bins.rows]
    assert sum(count for count in counts if isinstance(count, int)) == table.rows[0][1]


def test_the_bins_are_of_the_kind_that_happened_most(
    bundle: tuple[BundleParts, HeldOut], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every candidate is predicted for every kind, so only what happened tells them apart."""
    rng = np.random.default_rng(0)
    kinds = np.repeat([0, 1, 2], 100)
    found = Predictions(
        probabilities=rng.random(300),
        happened=rng.random(300) < np.array([0.1, 0.6, 0.3])[kinds],
        users=np.tile(np.arange(100), 3),
        kinds=kinds,
        names=("rare", "frequent", "some"),
    )
    monkeypatch.setattr(scorer_calibration, "predictions_of", lambda *_: found)
    parts, held_out = bundle
    table, bins = calibration_sections(parts, held_out, 20, (), seed=0)
    assert [row[0] for row in table.rows] == ["rare", "frequent", "some"]
    assert bins.title.startswith("bins of frequent,")
    happened = [row[4] for row in bins.rows]
    assert sum(n for n in happened if isinstance(n, int)) == table.rows[1][2]


def test_watching_changes_nothing_and_sees_every_stage(
    bundle: tuple[BundleParts, HeldOut],
) -> None:
    """The same lists, and time spent in each of the four methods by a clock that ticks once."""
    parts, held_out = bundle
    ticks = iter(range(1_000))
    observed, watch = watched(parts, now_s=lambda: float(next(ticks)))
    lists = BundleRanker(observed, held_out.interactions, 20)(held_out)
    plain = BundleRanker(parts, held_out.interactions, 20)(held_out)
    assert all((lists[name] == plain[name]).all() for name in plain)
    assert dict(watch.seconds) == {"encode": 1.0, "search": 2.0, "score": 1.0, "order": 1.0}
    assert "final page" in lists


def test_budgets_are_ranked_with_so_many_candidates_each(
    bundle: tuple[BundleParts, HeldOut],
) -> None:
    """One row per budget with its quality and the time of each stage."""
    parts, held_out = bundle
    section = budget_section(parts, held_out, seed=0, budgets=(5, 20))
    assert [row[0] for row in section.rows] == [5, 20]
    few, many = (row[1] for row in section.rows)
    assert isinstance(few, Interval)
    assert isinstance(many, Interval)
    for row in section.rows:
        spent = [cell for cell in row[2:] if isinstance(cell, float)]
        assert spent[-1] == pytest.approx(sum(spent[:-1]))
        assert spent[-1] > 0
