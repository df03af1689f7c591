"""Popularity in a window that ends at the query: nothing of the query's own time or later."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.settings import Settings
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.evaluation.rivals.popularity_as_of import (
    POPULARITY_TRENDING,
    START_HOURS,
    PopularityAsOf,
    fit_popularity_as_of,
)
from train_app.examples.interactions import Interactions, interactions_from_columns

HOUR_MS = 3_600_000
N_ITEMS = 6


def a_log(events: list[tuple[int, int]]) -> Interactions:
    """Engagements of (item, time), each of a user of its own; a last user knows all items."""
    rows = [(f"u{place}", f"i{item}", time) for place, (item, time) in enumerate(events)]
    users, items, times = zip(*rows, strict=True)
    return interactions_from_columns(users, items, ["view"] * len(rows), times)


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, N_ITEMS - 1), st.integers(0, 60)), min_size=1, max_size=40),
    st.lists(st.integers(0, 70), min_size=1, max_size=12),
    st.integers(1, 40),
)
def test_counts_are_those_of_the_window_whatever_the_order_of_moments(
    events: list[tuple[int, int]], moments: list[int], window_ms: int
) -> None:
    """From the window's begin on, and strictly before the moment."""
    log = a_log(events)
    ties = np.zeros(log.n_items, np.float32)
    scores = PopularityAsOf(log, (), ties).scores(np.asarray(moments), window_ms)
    for row, moment in zip(scores, moments, strict=True):
        inside = (log.timestamps_ms >= moment - window_ms) & (log.timestamps_ms < moment)
        assert row.tolist() == np.bincount(log.rows[inside], minlength=log.n_items).tolist()


def test_equal_counts_come_by_popularity_of_all_time_and_dismissals_do_not_count() -> None:
    """Ties decide between equals alone, and never outweigh one engagement."""
    log = interactions_from_columns(
        ["a", "b", "c"], ["x", "y", "z"], ["view", "view", "dismiss"], [10, 11, 12]
    )
    scores = PopularityAsOf(log, ("dismiss",), np.asarray([1.0, 9.0, 90.0], np.float32))
    found = scores.scores(np.asarray([20]), 15)[0]
    assert found.argsort()[::-1].tolist() == [1, 0, 2]
    assert found[2] < 1.0


def a_fashion(hours_each: int, n_items: int = 48) -> Interactions:
    """One item after the other is all that anybody engages with, for some hours each."""
    rows = [
        (f"u{item}-{place}", f"i{item:02}", item * hours_each * HOUR_MS + place * HOUR_MS // 8)
        for item in range(n_items)
        for place in range(8 * hours_each)
    ]
    users, items, times = zip(*rows, strict=True)
    return interactions_from_columns(users, items, ["view"] * len(rows), times)


def test_the_window_that_fits_the_data_is_found_on_the_training_part() -> None:
    """Fashions of ten hours want a short window, and the note says which was taken."""
    data = a_fashion(10)
    cutoff_ms = int(np.quantile(data.timestamps_ms, 0.9))
    held_out = hold_out("time", data, cutoff_ms=cutoff_ms, negative_kinds=(), seed=0)
    fitted = fit_popularity_as_of(held_out, Settings(), tune=True)
    assert fitted.options["days"] * 24 <= 6
    assert "the best of 8 settings of 8" in fitted.note
    lists = fitted.ranker(held_out)[POPULARITY_TRENDING]
    assert float((lists[:, 0] == held_out.targets).mean()) > 0.8


def test_without_tuning_seven_days_are_taken() -> None:
    """What most studies take; nothing was spent on tuning."""
    data = a_fashion(10, n_items=6)
    held_out = hold_out("time", data, cutoff_ms=40 * HOUR_MS, negative_kinds=(), seed=0)
    fitted = fit_popularity_as_of(held_out, Settings(), tune=False)
    assert fitted.options == {"days": START_HOURS / 24}
    assert fitted.tuning is None
    assert fitted.note.endswith("(not tuned)")
