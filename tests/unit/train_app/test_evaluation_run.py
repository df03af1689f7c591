"""Evaluating as asked: with a fresh training, with a bundle, and never on what was learned."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.registry import Registry
from recsys.errors import BundleNotFound, DataRefused
from recsys.settings import Settings
from tests.untrained_models import small_settings, some_interactions, write_untrained_models
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.evaluation.evaluation_run import EvaluationRequest, require_unseen, run_evaluation
from train_app.evaluation.evaluation_table import Evaluation
from train_app.evaluation.rankers import PAGE
from train_app.publish import assemble, publish_bundle, read_draft, write_bundle_manifest


def silent(label: str, share: float) -> None:
    """Nobody reads this progress."""


def cutoff_ms() -> int:
    """Where the time protocol splits."""
    return int(np.quantile(some_interactions().timestamps_ms, 0.7))


def evaluated(request: EvaluationRequest, settings: Settings) -> Evaluation:
    """The evaluation, with models that are not trained."""
    return run_evaluation(
        some_interactions(),
        cutoff_ms(),
        request,
        settings,
        train_models=write_untrained_models,
        report=silent,
    )


def a_published_bundle(settings: Settings, lineage: Mapping[str, object]) -> str:
    """The id of an untrained bundle with this lineage."""
    models, bundle = settings.data_dir / "m", settings.data_dir / "b"
    train = some_interactions()
    write_untrained_models(train, settings, models, warm_start=None, report=silent)
    assemble(models, bundle, train, settings, silent)
    write_bundle_manifest(
        bundle,
        read_draft(bundle, settings),
        lineage=lineage,
        metrics={},
        parents=(),
        now=datetime(2026, 1, 31, tzinfo=UTC),
    )
    return publish_bundle(bundle, Registry(settings.registry_location)).bundle_id


@pytest.mark.parametrize("protocol", ["leave-one-out", "ncf"])
def test_without_a_bundle_one_is_trained_and_nothing_is_left(tmp_path: Path, protocol: str) -> None:
    """The table tells the training seconds; the scratch directory is gone."""
    request = EvaluationRequest(protocol=protocol)  # type: ignore[arg-type]
    table = evaluated(request, small_settings(tmp_path))
    assert table.facts["train_s"] >= 0
    assert any("trained with the present settings" in note for note in table.notes)
    assert table.n_queries == 20
    assert not list((tmp_path / "evaluations").iterdir())


def test_a_bundle_that_excludes_the_test_part_is_evaluated_and_compared(tmp_path: Path) -> None:
    """A bundle against itself differs by nothing."""
    settings = small_settings(tmp_path)
    bundle_id = a_published_bundle(settings, {"train_until_ms": cutoff_ms()})
    table = evaluated(EvaluationRequest("time", bundle_id, against=bundle_id), settings)
    compared = {(row.method, row.other): row.metrics for row in table.differences}
    difference = compared[PAGE, f"{bundle_id} {PAGE}"]
    assert all(
        (interval.low, interval.mean, interval.high) == (0, 0, 0)
        for interval in difference.values()
    )
    assert table.facts["bundle_id"] == bundle_id


@pytest.mark.parametrize("protocol", ["leave-one-out", "ncf"])
def test_a_bundle_that_learned_from_the_test_part_is_refused(tmp_path: Path, protocol: str) -> None:
    """The last engagements of most users lie before the end of its training data: exit 6."""
    settings = small_settings(tmp_path)
    until_ms = int(some_interactions().timestamps_ms.max())
    bundle_id = a_published_bundle(settings, {"train_until_ms": until_ms})
    request = EvaluationRequest(protocol, bundle_id)  # type: ignore[arg-type]
    with pytest.raises(DataRefused, match="was trained on data until") as refused:
        evaluated(request, settings)
    assert refused.value.exit_code == 6


def test_a_bundle_that_does_not_say_until_when_it_learned_is_refused() -> None:
    """Nothing proves that it has not seen the test part."""
    held_out = hold_out(
        "time", some_interactions(), cutoff_ms=cutoff_ms(), negative_kinds=(), seed=0
    )
    with pytest.raises(DataRefused, match="does not say"):
        require_unseen(held_out, "b1", {})
    with pytest.raises(DataRefused):
        require_unseen(held_out, "b1", {"train_until_ms": cutoff_ms() + 10**9})
    require_unseen(held_out, "b1", {"train_until_ms": cutoff_ms()})


def test_an_unknown_bundle_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    """A typing error costs no training time."""
    with pytest.raises(BundleNotFound, match="nothing-like-it"):
        evaluated(EvaluationRequest(against="nothing-like-it"), small_settings(tmp_path))
