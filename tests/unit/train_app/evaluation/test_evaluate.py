"""Ranking with stages and baselines: the right lists, in the right rows, and a table of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
import pytest

from recsys.features import FeatureSchema, history_arrays
from recsys.settings import Settings
from recsys.types import Batch, FloatArray, HistoryEvent, Item, RowArray
from train_app.evaluation.evaluate import POPULARITY_RECENT, popularity_rankers, rank, tabulate
from train_app.evaluation.evaluation_protocols import HeldOut, Protocol, hold_out
from train_app.evaluation.evaluation_table import BEYOND_COLUMNS, COLUMNS, DIVERSITY, HR, measure
from train_app.evaluation.rankers import (
    PAGE,
    POPULARITY,
    RETRIEVAL_EXACT,
    RETRIEVAL_INDEX,
    BundleParts,
    BundleRanker,
    scores_ranker,
)
from train_app.examples.interactions import Interactions, interactions_from_columns

N_ITEMS, DIM = 40, 8


class MeanScorer:
    """A scorer stage: the user is the mean of the history, the utility minus the inner product."""

    nbytes = 0

    def __init__(self, vectors: FloatArray) -> None:
        self._vectors = vectors

    def __call__(self, method: str, batch: Batch) -> Batch:
        known = (batch["items"] >= 0)[:, :, None]
        if method == "encode":
            total = (self._vectors[batch["items"]] * known).sum(axis=1)
            return {"user_emb": total / np.maximum(known.sum(axis=1), 1)}
        scores = np.einsum("bd,bcd->bc", batch["user_emb"], self._vectors[batch["rows"]])
        return {"utility": np.where(batch["rows"] >= 0, -scores, -np.inf).astype(np.float32)}


class ExactShard:
    """A shard stage: brute force over its rows."""

    nbytes = 0

    def __init__(self, vectors: FloatArray, rows: RowArray) -> None:
        self._vectors = vectors
        self._rows = rows

    def __call__(self, method: str, batch: Batch) -> Batch:
        k = int(batch["k"][0])
        scores = batch["user_emb"] @ self._vectors[self._rows].T
        order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        pad = ((0, 0), (0, k - order.shape[1]))
        return {
            "rows": np.pad(self._rows[order], pad, constant_values=-1).astype(np.int32),
            "scores": np.pad(
                np.take_along_axis(scores, order, 1), pad, constant_values=-np.inf
            ).astype(np.float32),
        }


def some_interactions(seed: int = 0) -> Interactions:
    """30 users with 3 to 14 engagements of two kinds, no item twice for a user."""
    rng = np.random.default_rng(seed)
    users, items = [], []
    for user in range(30):
        n = int(rng.integers(3, 15))
        users += [f"u{user}"] * n
        items += [f"i{item}" for item in rng.permutation(N_ITEMS)[:n]]
    kinds = [("click", "like")[kind] for kind in rng.integers(0, 2, len(users))]
    table = [Item(f"i{row}") for row in range(N_ITEMS)]
    return interactions_from_columns(users, items, kinds, range(len(users)), items=table)


def held_out_of(interactions: Interactions, protocol: Protocol = "leave-one-out") -> HeldOut:
    """A protocol without negative kinds; `time` splits in the middle."""
    cutoff_ms = len(interactions) // 2
    return hold_out(protocol, interactions, cutoff_ms=cutoff_ms, negative_kinds=(), seed=0)


def parts_for(item_ids: Sequence[str], history_length: int = 10) -> BundleParts:
    """A bundle of fake stages in two shards; an item's vector depends on its id alone."""
    vectors = np.stack(
        [np.random.default_rng(int(item_id[1:])).normal(size=DIM) for item_id in item_ids]
    ).astype(np.float32)
    rows = np.arange(len(item_ids), dtype=np.int32)
    return BundleParts(
        scorer=MeanScorer(vectors),
        shards=[ExactShard(vectors, rows[0::2]), ExactShard(vectors, rows[1::2])],
        vectors=vectors,
        item_ids=item_ids,
        schema=FeatureSchema(("like", "click"), history_length, 16),
    )


def own_ids(interactions: Interactions) -> list[str]:
    """The item ids in row order."""
    return [item.item_id for item in interactions.items]


@pytest.mark.parametrize("protocol", ["time", "leave-one-out"])
def test_the_index_finds_what_exact_search_finds_and_never_a_seen_item(protocol: Protocol) -> None:
    """Lists hold every unseen item once, best first, and the page reorders the same items."""
    interactions = some_interactions()
    held_out = held_out_of(interactions, protocol)
    lists = BundleRanker(parts_for(own_ids(interactions)), interactions, 200)(held_out)
    exact, index, page = (lists[name] for name in (RETRIEVAL_EXACT, RETRIEVAL_INDEX, PAGE))
    assert (exact == index[:, : exact.shape[1]]).all()
    for exact_list, page_list, seen in zip(exact, page, held_out.seen(), strict=True):
        found = exact_list[exact_list >= 0].tolist()
        assert sorted(found) == sorted(set(range(N_ITEMS)) - set(seen.tolist()))
        assert sorted(page_list[: len(found)].tolist()) == sorted(found)
        if len(seen):  # without a history all scores are equal, and the order is by row
            assert page_list[: len(found)].tolist() == found[::-1]
        assert (page_list[len(found) :] == -1).all()


def test_the_page_scores_only_what_was_retrieved() -> None:
    """With 5 candidates the page holds the 5 best of retrieval, in the scorer's order."""
    interactions = some_interactions()
    lists = BundleRanker(parts_for(own_ids(interactions)), interactions, 5)(
        held_out_of(interactions)
    )
    assert (lists[PAGE][:, :5] == lists[RETRIEVAL_EXACT][:, :5][:, ::-1]).all()


def test_a_bundle_of_another_item_table_ranks_by_item_id() -> None:
    """Rows differ between bundles; lists are in the rows of the data, unknown items are absent."""
    interactions = some_interactions()
    held_out = held_out_of(interactions)
    same = BundleRanker(parts_for(own_ids(interactions)), interactions, 200)(held_out)
    shuffled = [*own_ids(interactions)[::-1], "i999"]
    other = BundleRanker(parts_for(shuffled), interactions, 200, "other ")(held_out)
    stranger = other[f"other {RETRIEVAL_EXACT}"]
    for own, theirs in zip(same[RETRIEVAL_EXACT], stranger, strict=True):
        assert own[own >= 0].tolist() == theirs[theirs >= 0].tolist()
    fewer = BundleRanker(parts_for(own_ids(interactions)[:30]), interactions, 200)(held_out)
    assert fewer[RETRIEVAL_EXACT].max() < 30


def test_features_are_those_that_serving_would_read() -> None:
    """Items, kinds and ages equal `history_arrays` of the same history, unknown items skipped."""
    interactions = some_interactions()
    held_out = held_out_of(interactions, "time")
    known = own_ids(interactions)[:30]
    parts = parts_for(known, history_length=14)
    histories = [
        [
            HistoryEvent(
                interactions.items[interactions.rows[event]].item_id,
                interactions.kinds[interactions.kind_ids[event]],
                int(interactions.timestamps_ms[event]),
            )
            for event in range(interactions.offsets[user], end)
        ]
        for user, end in zip(held_out.users, held_out.history_ends, strict=True)
    ]
    now_ms = interactions.timestamps_ms[held_out.positions].tolist()
    row_of = {item_id: row for row, item_id in enumerate(known)}
    expected = history_arrays(histories, row_of, parts.schema, now_ms)
    features = BundleRanker(parts, interactions, 200).features(held_out)
    for name, array in expected.items():
        assert array.dtype == features[name].dtype
        assert (array == features[name]).all(), name


def test_candidates_named_by_the_protocol_are_ranked_among_themselves() -> None:
    """`ncf`: every list is a permutation of the query's candidates."""
    interactions = some_interactions()
    held_out = held_out_of(interactions, "ncf")
    assert held_out.candidates is not None
    lists = BundleRanker(parts_for(own_ids(interactions)), interactions, 200)(held_out)
    lists |= scores_ranker(POPULARITY, np.arange(N_ITEMS, dtype=np.float32))(held_out)
    assert set(lists) == {RETRIEVAL_EXACT, PAGE, POPULARITY}
    for rows in lists.values():
        assert (np.sort(rows, axis=1) == np.sort(held_out.candidates, axis=1)).all()


def test_equal_scores_do_not_favour_the_held_out_item() -> None:
    """A method that knows nothing finds the target of `ncf` at no better rank than by chance."""
    interactions = some_interactions()
    held_out = held_out_of(interactions, "ncf")
    lists = scores_ranker("nothing", np.zeros(N_ITEMS, np.float32))(held_out)["nothing"]
    ranks = (lists == held_out.targets[:, None]).argmax(axis=1)
    assert ranks.mean() > 5


def test_long_lists_are_cut_and_wide_catalogues_are_not_sorted_whole() -> None:
    """2,000 items by score: the list holds the best 200 unseen ones, ties by row."""
    table = [Item(f"i{row}") for row in range(2_000)]
    interactions = interactions_from_columns(
        ["u"] * 4, ["i0", "i1", "i1999", "i5"], ["click"] * 4, range(4), items=table
    )
    scores = np.repeat(np.arange(500, dtype=np.float32), 4)
    lists = scores_ranker("s", scores)(held_out_of(interactions))["s"]
    order = [row for row in np.argsort(-scores, kind="stable") if row not in {0, 1, 1999}]
    assert lists[0].tolist() == order[:200]


def test_the_table_compares_all_methods_on_the_same_queries() -> None:
    """Batches make no difference, intervals hold their estimate, the text names every method."""
    interactions = some_interactions()
    held_out = held_out_of(interactions)
    rankers = [
        *popularity_rankers(held_out.train, Settings()),
        BundleRanker(parts_for(own_ids(interactions)), interactions, 200),
    ]
    reports: list[float] = []
    ranked = rank(held_out, rankers, lambda _, share: reports.append(share))
    assert reports[-1] == pytest.approx(1.0)
    table = tabulate(held_out, ranked, seed=0, facts={"bundle_id": "b1"}, notes=["a note"])
    assert {POPULARITY, POPULARITY_RECENT, PAGE} <= {row.method for row in table.figures}
    for row in table.figures:
        assert set(row.metrics) == {*COLUMNS, *BEYOND_COLUMNS} - {DIVERSITY}
        for interval in row.metrics.values():
            assert interval.low - 1e-9 <= interval.mean <= interval.high + 1e-9
    assert table.metric(PAGE, HR) == pytest.approx(ranked[PAGE].per_query[HR].mean())
    document = json.loads(json.dumps(table.as_dict(), allow_nan=False))
    assert document["bundle_id"] == "b1"
    text = table.text()
    assert all(row.method in text for row in table.figures)
    assert "a note" in text


def test_a_list_is_measured_by_the_place_of_its_target() -> None:
    """Third place: hit, reciprocal rank 1/3, NDCG 1/log2(4); absent: nothing."""
    lists = np.array([[7, 8, 9, -1], [7, 8, 9, -1]], np.int32)
    measured = measure(lists, np.array([9, 1], np.int32)).per_query
    assert [values.tolist() for values in measured.values()] == [
        [1.0, 0.0],
        [0.5, 0.0],
        [1.0, 0.0],
        [pytest.approx(1 / 3), 0.0],
    ]
