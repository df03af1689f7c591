"""Baselines of the library as they are asked here, and metrics equal to the library's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.settings import Settings
from recsys.types import Item, RowArray
from tests.untrained_models import small_settings, write_untrained_models
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.evaluation.evaluation_run import (
    EvaluationRequest,
    EvaluationTools,
    run_evaluation,
)
from train_app.evaluation.metrics import gini, ndcg, precision, recall, reciprocal_rank
from train_app.evaluation.rivals.lenskit_scores import Pairs, ease, implicit_als, item_neighbours
from train_app.evaluation.rivals.rival_grids import RIVALS, Rival
from train_app.evaluation.rivals.tune_rivals import fit_rivals
from train_app.examples.interactions import Interactions, interactions_from_columns

pytestmark = pytest.mark.integration
N_ITEMS = 24


def groups(n_users: int = 60, per_user: int = 6) -> Interactions:
    """Users engage with items of their own third of the catalogue, in a random order."""
    rng = np.random.default_rng(0)
    users, items = [], []
    for user in range(n_users):
        own = np.arange(user % 3, N_ITEMS, 3)
        users += [f"u{user}"] * per_user
        items += [f"i{item:02}" for item in rng.permutation(own)[:per_user]]
    order = rng.permutation(len(users))
    times = np.argsort(order)
    table = [Item(f"i{row:02}") for row in range(N_ITEMS)]
    return interactions_from_columns(users, items, ["view"] * len(users), times, items=table)


def pairs() -> Pairs:
    """Who engaged with what, with one item that nobody met."""
    data = groups()
    return Pairs(data.user_of_event(), data.rows.astype(np.int64), data.n_items + 1)


def test_the_matrix_gives_what_asking_the_library_gives() -> None:
    """EASE by one product for many histories equals its component, history by history."""
    import pyarrow as pa
    from lenskit.data import DatasetBuilder, ItemList, RecQuery
    from lenskit.knn import EASEScorer
    from lenskit.training import TrainingOptions

    known = pairs()
    histories: list[RowArray] = [np.array([0, 3, 5], np.int32), np.array([7], np.int32)]
    found = ease(known, {"regularization": 20.0}, 0)(histories)
    builder = DatasetBuilder()
    table = pa.table({"user_id": known.users, "item_id": known.rows})
    builder.add_interactions(
        "some", table, entities=["user", "item"], missing="insert", default=True
    )
    component = EASEScorer(regularization=20.0)
    component.train(builder.build(), TrainingOptions(rng=0, device="cpu"))
    items = ItemList(item_ids=np.arange(N_ITEMS))
    for scores, history in zip(found, histories, strict=True):
        theirs = component(RecQuery(history_items=ItemList(item_ids=history)), items).scores()
        assert scores[:N_ITEMS] == pytest.approx(theirs, abs=1e-5)
        assert scores[N_ITEMS] < theirs.min()


def test_item_neighbours_are_summed_cosines() -> None:
    """With all neighbours kept, a score is the sum of cosines to the items of the history."""
    known = pairs()
    engaged = np.zeros((60, N_ITEMS + 1))
    engaged[known.users, known.rows] = 1.0
    norms = np.maximum(np.linalg.norm(engaged, axis=0), 1e-9)
    cosine = engaged.T @ engaged / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0.0)
    found = item_neighbours(known, {"neighbours": 100}, 0)([np.array([0, 3], np.int32)])[0]
    expected = cosine[[0, 3]].sum(axis=0)
    alike = np.flatnonzero(expected > 1e-6)
    assert found[alike] == pytest.approx(expected[alike], abs=1e-5)
    assert found[np.setdiff1d(np.arange(N_ITEMS + 1), alike)].max() < 0


@pytest.mark.parametrize("rival", RIVALS, ids=lambda rival: rival.name)
def test_a_history_is_enough_to_be_understood(rival: Rival) -> None:
    """Fold-in: a user unknown to training gets items of the group of the history first."""
    small = {"embedding_size": 4} if "embedding_size" in rival.start else {}
    scores_of = rival.build(pairs(), {**rival.start, **small}, 0)
    by_group = [np.arange(group, N_ITEMS, 3)[:3].astype(np.int32) for group in range(3)]
    for group, scores in enumerate(scores_of(by_group)):
        others = np.setdiff1d(np.arange(N_ITEMS), by_group[group])
        best = others[np.argsort(-scores[others], kind="stable")][:5]
        assert (best % 3 == group).all()
    empty = scores_of([np.zeros(0, np.int32)])[0]
    assert np.argmax(empty) == np.argmax(pairs().popularity())


def test_one_seed_gives_one_result() -> None:
    """Factors begin at random; the seed decides them."""
    options = {"embedding_size": 4, "weight": 4.0, "regularization": 1.0, "epochs": 3}
    history = [np.array([0, 3], np.int32)]
    first, again = (implicit_als(pairs(), options, 1)(history) for _ in range(2))
    assert (first == again).all()


def test_all_baselines_are_tuned_and_leave_out_what_was_seen() -> None:
    """Three notes with settings; no list holds an item of its history."""
    held_out = hold_out("leave-one-out", groups(), cutoff_ms=0, negative_kinds=(), seed=0)
    fitted, notes = fit_rivals(held_out, Settings(), tune=True, report=lambda *_: None)
    assert [rival.name for rival in fitted] == ["item-kNN", "iALS", "EASE"]
    assert notes == []
    for rival in fitted:
        lists = rival.ranker(held_out)[rival.name]
        for found, seen in zip(lists, held_out.seen(), strict=True):
            assert not set(found[found >= 0].tolist()) & set(seen.tolist())
        assert (lists[:, :2] == held_out.targets[:, None]).any(axis=1).mean() > 0.5


def test_metrics_agree_with_the_library() -> None:
    """Gini of exposures, precision, recall, reciprocal rank and NDCG of the same lists."""
    from lenskit.data import ItemList
    from lenskit.metrics import NDCG, LogRankWeight, Precision, Recall, RecipRank
    from lenskit.stats import gini as library_gini

    rng = np.random.default_rng(2)
    exposures = rng.poisson(2.0, 300).astype(np.float64)
    assert gini(exposures) == pytest.approx(library_gini(exposures), abs=1e-9)
    for _ in range(20):
        ranked, wanted = rng.permutation(40)[:20], rng.permutation(40)[:7]
        gains = np.isin(ranked, wanted)[None].astype(np.float32)
        ideal = np.ones((1, len(wanted)), np.float32)
        ours = {
            NDCG(10, weight=LogRankWeight(offset=1)): ndcg(gains, ideal, 10),
            Precision(10): precision(gains, 10),
            Recall(10): recall(gains, len(wanted), 10),
        }
        lists = ItemList(item_ids=ranked, ordered=True), ItemList(item_ids=wanted)
        for metric, values in ours.items():
            assert values[0] == pytest.approx(metric.measure_list(*lists), abs=1e-6)
        assert reciprocal_rank(gains)[0] == pytest.approx(RecipRank().measure_list(*lists))


def test_an_evaluation_names_the_baselines_it_ran(tmp_path: Path) -> None:
    """All three beside popularity and the bundle, each with its cost and its settings."""
    tools = EvaluationTools(write_untrained_models, lambda *_: None)
    request = EvaluationRequest("leave-one-out", tune_baselines=False)
    table = run_evaluation(groups(), request, small_settings(tmp_path), tools)
    methods = {row.method for row in table.figures}
    assert {"popularity", "popularity, recent", "item-kNN", "iALS", "EASE", "page"} <= methods
    assert table.facts["best_baseline"] in {"item-kNN", "iALS", "EASE"}
    costs = next(section for section in table.sections if section.key == "cost")
    assert {"item-kNN", "iALS", "EASE", "page"} <= {row[0] for row in costs.rows}
    assert any(note.startswith("iALS: embedding_size 64") for note in table.notes)
