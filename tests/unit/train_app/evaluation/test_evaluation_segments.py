"""Traits of queries, the segments and debiased weights made of them, and where stages lose."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.types import RowArray
from train_app.evaluation.breakdown.query_traits import (
    DEBIASED,
    PER_ITEM,
    QueryTraits,
    head_items,
)
from train_app.evaluation.breakdown.segments import segment_section, segments
from train_app.evaluation.breakdown.stage_losses import loss_section, stage_section
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.evaluation.evaluation_table import measure
from train_app.evaluation.metrics import Interval, bootstrap_mean
from train_app.evaluation.rankers import FINAL_PAGE, PAGE, RETRIEVAL_EXACT, RETRIEVAL_INDEX
from train_app.examples.interactions import interactions_from_columns


def some_traits() -> QueryTraits:
    """Six queries of three users."""
    return QueryTraits(
        users=np.array([0, 0, 1, 1, 2, 2]),
        n_history=np.array([0, 4, 5, 49, 50, 500]),
        n_target=np.array([0, 4, 5, 16, 100, 100]),
        in_head=np.array([False, False, False, False, True, True]),
        is_prompted=np.array([True, False, False, False, False, False]),
        devices=np.array(["phone", "", "tv", "phone", "", ""]),
    )


def test_every_query_is_in_one_segment_of_users_and_one_of_items() -> None:
    """The masks of a family do not overlap and leave nobody out."""
    found = segments(some_traits())
    assert sum(mask.sum() for name, mask in found.items() if name.startswith("users")) == 6
    assert sum(mask.sum() for name, mask in found.items() if name.endswith("items")) == 6
    assert found["new items"].tolist() == [True, True, False, False, False, False]
    assert found["device phone"].sum() == 2
    assert found["reactions to a slate"].sum() == 1
    assert next(iter(found)) == "all"


def test_traits_are_read_from_the_held_out_part() -> None:
    """History lengths and training counts are of what was before the cutoff."""
    data = interactions_from_columns(
        ["u", "v", "u", "v", "u"], ["a", "a", "b", "b", "c"], ["click"] * 5, range(5)
    )
    traits = QueryTraits.of(hold_out("time", data, cutoff_ms=3, negative_kinds=(), seed=0))
    assert traits.n_history.tolist() == [2, 1]
    assert traits.n_target.tolist() == [0, 1]
    pooled = QueryTraits.pooled([traits, traits])
    assert pooled.n_history.tolist() == [2, 1, 2, 1]


def test_the_head_is_the_fewest_items_with_half_of_the_engagements() -> None:
    """Six of ten are of the first two items; items without any are never of the head."""
    assert head_items(np.array([1, 4, 2, 3, 0])).tolist() == [False, True, False, True, False]
    assert not head_items(np.zeros(3, np.int64)).any()


def test_rare_targets_weigh_more_in_the_debiased_figures() -> None:
    """1 / sqrt(count) and 1 / count; a count of 0 weighs as 1."""
    weights = some_traits().weights()
    assert weights[DEBIASED].tolist() == pytest.approx([1, 1 / 2, 5**-0.5, 1 / 4, 0.1, 0.1])
    assert weights[PER_ITEM].tolist() == pytest.approx([1, 1 / 4, 1 / 5, 1 / 16, 0.01, 0.01])


def test_a_segment_row_is_the_mean_of_its_queries_with_the_paired_gain() -> None:
    """The gain of the first over the second method, in each segment."""
    one, other = np.array([1, 1, 0, 0, 1, 0.0]), np.array([0, 1, 0, 0, 0, 0.0])
    section = segment_section("m", {"one": one, "other": other}, some_traits(), 0, ("one", "other"))
    assert section.columns == ("segment", "n", "users", "one", "other", "gain")
    rows = {row[0]: row for row in section.rows}
    gain = rows["head items"][-1]
    assert isinstance(gain, Interval)
    assert gain.mean == pytest.approx(0.5)
    assert rows["head items"][1:3] == (2, 1)
    assert rows["all"][3] == bootstrap_mean(one, some_traits().users, 0)


def lists(places: list[int | None], length: int = 200) -> RowArray:
    """Lists of rows from 1000 on with item 7 at the given place of each."""
    found = np.tile(np.arange(1000, 1000 + length, dtype=np.int32), (len(places), 1))
    for query, place in enumerate(places):
        if place is not None:
            found[query, place] = 7
    return found


def test_losses_of_the_stages_and_the_final_page_add_up_to_one() -> None:
    """One query is not retrieved, one is ranked away, one is moved down by ordering."""
    targets = np.full(6, 7, np.int32)
    ranked = {
        RETRIEVAL_EXACT: measure(lists([0, 3, 60, None, 1, 199]), targets),
        RETRIEVAL_INDEX: measure(lists([0, 3, None, None, 1, 199]), targets),
        PAGE: measure(lists([0, 0, None, None, 40, 2]), targets),
        FINAL_PAGE: measure(lists([0, 1, None, None, None, 2], length=10), targets),
    }
    losses = loss_section(ranked, some_traits(), seed=0, n_candidates=200)
    assert losses is not None
    assert losses.notes == ()
    means = [cell.mean for _, cell in losses.rows if isinstance(cell, Interval)]
    assert sum(means[:4]) == pytest.approx(1.0)
    assert means[0] == pytest.approx(2 / 6)
    assert means[1] == pytest.approx((0 + 0 + 1 + 0.5) / 6)
    assert means[2] == pytest.approx((1 - 1 / np.log2(3)) / 6)
    stages = stage_section(ranked, some_traits(), 0, 200)
    assert stages is not None
    recalls = {row[0]: row[1:4] for row in stages.rows}
    exact = [cell.mean for cell in recalls[RETRIEVAL_EXACT] if isinstance(cell, Interval)]
    assert exact == pytest.approx([3 / 6, 3 / 6, 5 / 6])
    assert recalls[FINAL_PAGE][1:] == (None, None)


def test_without_stages_there_are_no_stage_tables() -> None:
    """Popularity alone has nothing to be taken apart."""
    ranked = {"popularity": measure(lists([0] * 6), np.full(6, 7, np.int32))}
    assert stage_section(ranked, some_traits(), 0, 200) is None
    assert loss_section(ranked, some_traits(), 0, 200) is None


def test_where_more_is_scored_than_listed_the_losses_say_so() -> None:
    """A candidate beyond the end of the page's list cannot be told from one not retrieved."""
    targets = np.full(6, 7, np.int32)
    ranked = {name: measure(lists([0] * 6), targets) for name in (RETRIEVAL_INDEX, PAGE)}
    losses = loss_section(ranked, some_traits(), 0, n_candidates=400)
    assert losses is not None
    assert "beyond place 200" in losses.notes[0]
