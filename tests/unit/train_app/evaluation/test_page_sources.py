"""What a bundle's page is made of offline: the index and the sources that serving has beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.item_table import MS_PER_DAY, ItemTable, write_item_table
from recsys.settings import RetrievalSettings, Settings
from recsys.types import NO_ROW, Batch, Item, RowArray, Source
from train_app.evaluation.evaluation_protocols import HeldOut, Protocol, hold_out
from train_app.evaluation.page_sources import PageSources, index_alone, scorer_inputs
from train_app.examples.interactions import Interactions, interactions_from_columns

N_ITEMS = 12
RETRIEVAL = RetrievalSettings(
    n_candidates=6, n_popular=1, n_fresh=1, n_neighbours=2, n_trending=1, neighbour_seeds=2
)


def a_log() -> Interactions:
    """Nine users who meet items 0 and 1 together, and then one who meets 0 and later 9."""
    users = [f"u{user}" for user in range(9) for _ in range(2)]
    events = [(user, f"i{place % 2}", 1_000 * place) for place, user in enumerate(users)]
    events += [("last", "i0", 50_000), ("last", "i9", 60_000)]
    names, item_ids, times = zip(*events, strict=True)
    table = [Item(f"i{row}") for row in range(N_ITEMS)]
    return interactions_from_columns(names, item_ids, ["click"] * len(names), times, items=table)


@pytest.fixture
def beside(tmp_path: Path) -> PageSources:
    """The sources of a bundle whose rows are those of the data, the other way round."""
    items = [Item(f"i{N_ITEMS - 1 - row}", created_ms=row * MS_PER_DAY) for row in range(N_ITEMS)]
    popularity = np.zeros(N_ITEMS, np.float32)
    popularity[3] = 5.0
    write_item_table(tmp_path, items, popularity)
    settings = Settings(retrieval=RETRIEVAL)
    return PageSources.of_bundle(ItemTable.read(tmp_path), ("click",), settings)


def bundle_rows() -> RowArray:
    """The bundle's row of every item of the data; the last cell answers for padding."""
    return np.asarray([*range(N_ITEMS - 1, -1, -1), NO_ROW], np.int32)


def queries_of(log: Interactions) -> HeldOut:
    """The last engagement alone is predicted."""
    return hold_out("time", log, cutoff_ms=55_000, negative_kinds=(), seed=0)


def features_of(*rows: int) -> Batch:
    """A history of clicks on these rows of the bundle."""
    items = np.full((1, 4), NO_ROW, np.int32)
    items[0, 4 - len(rows) :] = rows
    return {"items": items, "kinds": np.where(items >= 0, 2, 0).astype(np.uint8)}


def test_the_page_has_what_serving_would_merge(beside: PageSources) -> None:
    """Neighbours as known when training ended, and the bundle's popular and fresh items."""
    queries = queries_of(a_log())
    index = np.array([[4, 5, 6, 7, 2, 1]], np.int32)
    seen = [np.array([11], np.int32)]
    found = beside.merged(queries, features_of(11), index, seen, bundle_rows())
    row_of_i1 = N_ITEMS - 2
    sources = dict(zip(found.rows[0].tolist(), found.sources[0].tolist(), strict=True))
    assert sources == {
        4: Source.INDEX,
        5: Source.INDEX,
        6: Source.INDEX,
        7: Source.INDEX,
        row_of_i1: Source.NEIGHBOURS,
        3: Source.POPULAR,
    }
    stranger = beside.merged(queries, features_of(), index, [seen[0][:0]], bundle_rows())
    assert Source.NEIGHBOURS not in stranger.sources
    assert Source.TRENDING not in stranger.sources


def test_what_happened_after_training_makes_no_neighbours(beside: PageSources) -> None:
    """Items 0 and 9 go together only from the held-out engagement on."""
    queries = queries_of(a_log())
    index = np.empty((1, 6), np.int32)
    index[:] = NO_ROW
    found = beside.merged(queries, features_of(11), index, [np.array([11])], bundle_rows())
    assert N_ITEMS - 1 - 9 not in found.rows


def a_log_of_trends(held_out_item: str) -> Interactions:
    """Twelve users whose last engagements are held out, eleven of them with the same item.

    Items 0 and 2 trend among the engagements before.
    """
    users = [f"u{user:02}" for user in range(12)]
    events = [(user, f"i{4 + place % 4}", 1_000) for place, user in enumerate(users)]
    events += [(user, f"i{place % 2 * 2}", 2_000) for place, user in enumerate(users)]
    events += [(user, held_out_item, 600_000) for user in users[:11]]
    events += [(users[11], "i3", 1_200_000)]
    names, item_ids, times = zip(*events, strict=True)
    table = [Item(f"i{row}") for row in range(N_ITEMS)]
    return interactions_from_columns(names, item_ids, ["click"] * len(names), times, items=table)


@pytest.mark.parametrize("protocol", ["leave-one-out", "ncf"])
def test_what_others_did_in_the_test_part_changes_no_page(
    protocol: Protocol, beside: PageSources
) -> None:
    """Eleven users end with item 10 or with item 11: the last user's candidates are the same."""
    pages = []
    for item in ("i10", "i11"):
        log = a_log_of_trends(item)
        queries = hold_out(protocol, log, cutoff_ms=0, negative_kinds=(), seed=0)
        last = list(queries.batches(1))[-1]
        index = np.full((1, 6), NO_ROW, np.int32)
        sources = PageSources(beside.popular, beside.fresh, beside.kinds, beside.settings)
        pages.append(sources.merged(last, features_of(), index, [index[0][:0]], bundle_rows()))
    assert pages[0].rows.tolist() == pages[1].rows.tolist()
    assert Source.TRENDING in pages[0].sources
    trending = pages[0].rows[pages[0].sources == Source.TRENDING].tolist()
    assert set(trending) <= {N_ITEMS - 1 - 2, N_ITEMS - 1}


def test_a_split_by_time_reads_trends_up_to_the_query(beside: PageSources) -> None:
    """What others did after the cut was known when the query was made, as serving would know."""
    log = a_log_of_trends("i10")
    queries = hold_out("time", log, cutoff_ms=500_000, negative_kinds=(), seed=0)
    last = list(queries.batches(1))[-1]
    index = np.full((1, 6), NO_ROW, np.int32)
    found = beside.merged(last, features_of(), index, [index[0][:0]], bundle_rows())
    trending = found.rows[found.sources == Source.TRENDING].tolist()
    assert trending == [N_ITEMS - 1 - 10]


def test_the_index_alone_is_scored_by_its_own_ranks() -> None:
    """Every candidate is the index's."""
    inputs = scorer_inputs({"items": np.zeros((2, 3))}, index_alone(np.array([[5, 3], [1, -1]])))
    assert inputs["sources"].tolist() == [[Source.INDEX] * 2] * 2
    assert inputs["ranks"].tolist() == [[0, 1], [0, 1]]
    assert set(inputs) == {"items", "rows", "sources", "ranks"}
