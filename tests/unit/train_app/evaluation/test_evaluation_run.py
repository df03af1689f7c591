"""Evaluating as asked: with a fresh training, with a bundle, and never on what was learned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.bundles.registry import Registry
from recsys.errors import BundleNotFound, ConfigError, DataError, DataRefused
from recsys.learning_settings import TowerSettings, TrainSettings
from recsys.settings import Settings
from tests.untrained_models import (
    DIM,
    HISTORY_LENGTH,
    small_settings,
    some_interactions,
    write_untrained_models,
)
from train_app.evaluation import evaluation_run
from train_app.evaluation.evaluate import POPULARITY_RECENT
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.evaluation.evaluation_run import (
    EvaluationRequest,
    EvaluationTools,
    require_unseen,
    run_evaluation,
)
from train_app.evaluation.evaluation_table import DIVERSITY, Evaluation
from train_app.evaluation.rankers import PAGE
from train_app.evaluation.rivals.popularity_as_of import POPULARITY_TRENDING
from train_app.evaluation.rivals.rank_all_methods import CutResult, rank_all_methods
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.publish import assemble, publish_bundle, read_draft, write_bundle_manifest


def silent(label: str, share: float) -> None:
    """Nobody reads this progress."""


def cutoff_ms() -> int:
    """Where the time protocol splits."""
    return int(np.quantile(some_interactions().timestamps_ms, 0.7))


def towers() -> TowerSettings:
    """The settings that fit the untrained models."""
    return TowerSettings(
        embedding_dim=DIM,
        n_layers=1,
        n_heads=1,
        history_length=HISTORY_LENGTH,
        n_content_buckets=32,
    )


def evaluated(
    request: EvaluationRequest, settings: Settings, data: Interactions | None = None
) -> Evaluation:
    """The evaluation, with models that are not trained."""
    tools = EvaluationTools(write_untrained_models, silent, rivals=())
    return run_evaluation(some_interactions() if data is None else data, request, settings, tools)


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
    assert POPULARITY_TRENDING not in {row.method for row in table.figures}
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
    assert (PAGE, POPULARITY_TRENDING) in compared


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


def test_several_cuts_are_trained_each_and_pooled(tmp_path: Path) -> None:
    """Three windows follow each other; the pooled figures are of all their queries."""
    settings = small_settings(tmp_path, train=TrainSettings(towers=towers(), holdout_share=0.1))
    table = evaluated(EvaluationRequest("time", n_cuts=3), settings)
    sections = {section.key: section for section in table.sections}
    counts = sections["cuts"].rows[0][1:]
    assert len(counts) == 3
    assert sum(count for count in counts if isinstance(count, int)) == table.n_queries
    assert {"users", "segments", "stages", "losses", "budgets", "cost"} <= set(sections)
    cutoffs = table.facts["cuts_ms"]
    assert isinstance(cutoffs, list)
    assert cutoffs == sorted(set(cutoffs))


def test_a_bundle_is_evaluated_on_the_cuts_it_has_not_seen(tmp_path: Path) -> None:
    """Of two windows the older was learned from: it is left out with the reason."""
    data = some_interactions()
    settings = small_settings(tmp_path, train=TrainSettings(towers=towers(), holdout_share=0.1))
    newest = int(np.sort(data.timestamps_ms)[-10])
    bundle_id = a_published_bundle(settings, {"train_until_ms": newest})
    table = evaluated(EvaluationRequest("time", bundle_id, n_cuts=2), settings)
    assert any("a cut is left out: bundle" in note for note in table.notes)
    assert table.facts["cuts_ms"] == [newest]


def some_with_a_window_of_repeats() -> Interactions:
    """Ten users and twenty items; in the ninth tenth of the log all repeat what they did."""
    order = [(user, item) for item in range(20) for user in range(10)]
    order[160:180] = order[:20]
    return interactions_from_columns(
        [f"u{user}" for user, _ in order],
        [f"i{item}" for _, item in order],
        ["click"] * len(order),
        range(0, 1_000 * len(order), 1_000),
    )


def test_a_cut_with_nothing_to_evaluate_is_left_out(tmp_path: Path) -> None:
    """The other window is evaluated, and a note says why there is one fewer."""
    settings = small_settings(tmp_path, train=TrainSettings(towers=towers(), holdout_share=0.1))
    table = evaluated(
        EvaluationRequest("time", n_cuts=2), settings, some_with_a_window_of_repeats()
    )
    assert table.facts["cuts_ms"] == [180_000]
    assert any("a cut is left out: the time protocol has nothing" in note for note in table.notes)
    assert any("the page reads trends as of each query" in note for note in table.notes)


def test_a_baseline_missing_at_a_cut_is_left_out_of_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The older cut has one method fewer: the others are pooled, and a note names it."""
    results: list[CutResult] = []

    def without_recent(*arguments: Any, **options: Any) -> CutResult:
        result = rank_all_methods(*arguments, **options)
        if not results:
            ranked = {k: v for k, v in result.ranked.items() if k != POPULARITY_RECENT}
            result = replace(result, ranked=ranked)
        results.append(result)
        return result

    monkeypatch.setattr(evaluation_run, "rank_all_methods", without_recent)
    settings = small_settings(tmp_path, train=TrainSettings(towers=towers(), holdout_share=0.1))
    table = evaluated(EvaluationRequest("time", n_cuts=2), settings)
    assert len(results) == 2
    assert POPULARITY_RECENT not in {row.method for row in table.figures}
    assert f"{POPULARITY_RECENT} is left out: not at every cut" in table.notes


def test_a_report_fits_a_terminal_and_a_program(tmp_path: Path) -> None:
    """No line is wider than 100 columns but notes; the document is JSON without NaN."""
    table = evaluated(EvaluationRequest(), small_settings(tmp_path))
    notes = {note for section in table.sections for note in section.notes} | set(table.notes)
    wide = [line for line in table.text().splitlines() if len(line) > 100 and line not in notes]
    assert wide == []
    document = json.loads(json.dumps(table.as_dict(), allow_nan=False))
    assert document["cost"]["wall_s"] >= document["training"]["wall_s"]
    parts = document["sections"]["losses"][:4]
    assert sum(part["NDCG@10"]["mean"] for part in parts) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (EvaluationRequest("ncf", n_cuts=2), "--cuts goes with --protocol time"),
        (EvaluationRequest("time", negatives=Path("x")), "--negatives goes with --protocol ncf"),
        (EvaluationRequest("time", n_cuts=30), "leave nothing to learn from"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    request_: EvaluationRequest, words: str, tmp_path: Path
) -> None:
    """With what was expected."""
    with pytest.raises(ConfigError, match=words):
        evaluated(request_, small_settings(tmp_path))


def poor_data(name: str) -> Interactions:
    """Logs that leave little to evaluate."""
    n = 12
    users = [f"u{event % 3}" for event in range(n)]
    items = [f"i{event % 5}" for event in range(n)]
    kinds, times = ["click"] * n, list(range(n))
    if name == "a single item":
        items = ["i0"] * n
    if name == "users with one event":
        users = [f"u{event}" for event in range(n)]
    if name == "equal times":
        times = [7] * n
    return interactions_from_columns(users, items, kinds, times)


@pytest.mark.parametrize(
    ("name", "protocol", "words"),
    [
        ("a single item", "leave-one-out", "nothing to evaluate"),
        ("users with one event", "leave-one-out", "nothing to evaluate"),
        ("users with one event", "ncf", "nothing to evaluate"),
        ("equal times", "time", "have the same time"),
    ],
)
def test_data_that_cannot_be_evaluated_says_why(
    name: str, protocol: str, words: str, tmp_path: Path
) -> None:
    """One sentence with what to do, and no traceback of something deeper."""
    request = EvaluationRequest(protocol=protocol)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=words):
        evaluated(request, small_settings(tmp_path), poor_data(name))


@pytest.mark.parametrize(
    ("name", "protocol"),
    [
        ("one kind, no content", "time"),
        ("one kind, no content", "ncf"),
        ("users with one event", "time"),
        ("equal times", "leave-one-out"),
    ],
)
def test_data_that_is_poor_is_still_evaluated(name: str, protocol: str, tmp_path: Path) -> None:
    """What can be measured is; diversity needs categories and is left out."""
    request = EvaluationRequest(protocol=protocol)  # type: ignore[arg-type]
    table = evaluated(request, small_settings(tmp_path), poor_data(name))
    assert table.n_queries > 0
    assert all(DIVERSITY not in row.metrics for row in table.figures)
    assert "NDCG@10" in table.text()
