"""The sources of past moments against a plain reading of the stream's definitions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples_of
from hypothesis import strategies as st

from recsys.data_settings import FeatureSettings
from recsys.feature_definitions import (
    MS_PER_DAY,
    TREND_LONG_S,
    TREND_SHORT_S,
    best_neighbours,
    bucket_of,
    day_of,
    first_bucket,
    paired_items,
    trend_score,
)
from recsys.settings import RetrievalSettings, Settings
from recsys.types import NO_ROW, HistoryEvent, Item, Source
from train_app.examples.interactions import Interactions, interactions_from_columns
from train_app.learning.ranking.scorer_examples import histories_before
from train_app.past.past_pairs import past_pairs
from train_app.past.past_sources import past_extras
from train_app.past.past_trends import PastTrends, fresh_at

NEGATIVE = ("dismiss",)
FEATURES = FeatureSettings(pair_history=2, pair_window_s=3_600, pair_days=2)
START_MS = 1_700_000_000_000
N_KEPT = 4

engagements = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.integers(0, 7),
        st.sampled_from(["view", "dismiss"]),
        st.sampled_from([0, 60_000, 1_500_000, 4_000_000, 50_000_000]),
    ),
    max_size=60,
)


def log_of(found: list[tuple[int, int, str, int]]) -> Interactions:
    """These engagements, each so long after the one before; ids are not in the order of rows."""
    times = START_MS + np.cumsum([gap_ms for *_, gap_ms in found], dtype=np.int64)
    return interactions_from_columns(
        [f"u{user}" for user, *_ in found],
        [f"i{item * 7 % 8}" for _, item, *_ in found],
        [kind for *_, kind, _ in found],
        times,
        items=[Item(f"i{item * 5 % 8}") for item in range(8)],
    )


def plain_neighbours(log: Interactions, moment_ms: int) -> dict[str, list[tuple[str, float]]]:
    """As the stream counts and ranks, user by user and event by event."""
    pairs: dict[str, Counter[str]] = {}
    degrees: Counter[str] = Counter()
    for begin, end in zip(log.offsets[:-1].tolist(), log.offsets[1:].tolist(), strict=True):
        events = [
            HistoryEvent(
                log.items[log.rows[at]].item_id,
                log.kinds[log.kind_ids[at]],
                int(log.timestamps_ms[at]),
            )
            for at in range(begin, end)
        ]
        for place, event in enumerate(events):
            day = day_of(event.timestamp_ms)
            is_told = event.timestamp_ms < moment_ms and day > day_of(moment_ms) - 2
            if event.kind in NEGATIVE or not is_told:
                continue
            before = reversed(events[:place])
            window_ms = FEATURES.pair_window_s * 1000
            for other in paired_items(
                before, event.item_id, event.timestamp_ms, NEGATIVE, 2, window_ms
            ):
                for one, two in ((event.item_id, other), (other, event.item_id)):
                    pairs.setdefault(one, Counter())[two] += 1
                    degrees[one] += 1
    return {i: best_neighbours(found, degrees[i], degrees, 99) for i, found in pairs.items()}


@examples_of(deadline=None, max_examples=50)
@given(engagements, st.integers(0, 60))
def test_neighbours_as_of_a_moment_are_those_the_stream_would_serve(
    found: list[tuple[int, int, str, int]], at: int
) -> None:
    """Of pairs strictly before it, in the days that count."""
    log = log_of(found)
    times = np.sort(log.timestamps_ms)
    moment_ms = int(times[min(at, len(times) - 1)]) if len(times) else START_MS
    table = past_pairs(log, NEGATIVE, FEATURES).neighbours(moment_ms, N_KEPT)
    expected = plain_neighbours(log, moment_ms)
    for row, item in enumerate(log.items):
        ranked = sorted(
            expected.get(item.item_id, []), key=lambda entry: (-round(entry[1], 6), entry[0])
        )[:N_KEPT]
        rows = table.rows[row][table.rows[row] != NO_ROW].tolist()
        assert [log.items[other].item_id for other in rows] == [name for name, _ in ranked]
        assert table.scores[row][: len(rows)].tolist() == pytest.approx(
            [score for _, score in ranked], abs=1e-3
        )


def test_neighbours_are_the_same_however_many_pairs_are_counted_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Blocks of users and of items bound the memory and decide nothing."""
    rng = np.random.default_rng(0)
    times = START_MS + rng.integers(0, MS_PER_DAY, 400)
    columns = (rng.integers(0, 9, 400), rng.integers(0, 30, 400))
    users, items = ([f"x{number}" for number in column] for column in columns)
    log = interactions_from_columns(users, items, ["click"] * 400, times)
    moment_ms = int(times.max())
    whole = past_pairs(log, NEGATIVE, FEATURES).neighbours(moment_ms, N_KEPT)
    monkeypatch.setattr("train_app.past.past_pairs._EVENTS_AT_ONCE", 7)
    monkeypatch.setattr("train_app.past.past_pairs._PAIRS_AT_ONCE", 11)
    parts = past_pairs(log, NEGATIVE, FEATURES).neighbours(moment_ms, N_KEPT)
    assert (whole.rows != NO_ROW).sum() > 50
    np.testing.assert_array_equal(parts.rows, whole.rows)
    np.testing.assert_array_equal(parts.scores, whole.scores)


@examples_of(deadline=None, max_examples=50)
@given(engagements)
def test_trending_as_of_a_moment_is_what_the_list_would_have_said(
    found: list[tuple[int, int, str, int]],
) -> None:
    """At the start of its bucket, of engagements that are not negative."""
    log = log_of(found)
    moments_ms = log.timestamps_ms
    trends = PastTrends(log, NEGATIVE)
    lists = trends.lists(moments_ms, N_KEPT)
    assert trends.lists(moments_ms[::-1], N_KEPT)[::-1].tolist() == lists.tolist()
    is_positive = np.asarray([log.kinds[kind] not in NEGATIVE for kind in log.kind_ids], bool)
    for moment_ms, rows in zip(moments_ms.tolist(), lists.tolist(), strict=True):
        now_ms = bucket_of(moment_ms, TREND_SHORT_S)
        short, long = (
            Counter(
                log.rows[
                    is_positive
                    & (log.timestamps_ms >= first_bucket(now_ms, window_s))
                    & (log.timestamps_ms < now_ms)
                ].tolist()
            )
            for window_s in (TREND_SHORT_S, TREND_LONG_S)
        )
        scored = [
            (-trend_score(n, long[row]), log.items[row].item_id, row) for row, n in short.items()
        ]
        best = [row for score, _, row in sorted(scored) if score < 0][:N_KEPT]
        assert rows == best + [NO_ROW] * (N_KEPT - len(best))


def test_fresh_items_are_those_that_had_appeared() -> None:
    """Newest first, within the days before the newest one then, and none before the first."""
    days = [5, 1, None, 3, 3, 9]
    items = [
        Item(f"i{n}", created_ms=None if day is None else day * MS_PER_DAY)
        for n, day in enumerate(days)
    ]
    log = interactions_from_columns(["u"], ["i0"], ["view"], [1], items=items)
    moments_ms = np.array([0, 1, 3, 4, 5, 20], np.int64) * MS_PER_DAY
    assert fresh_at(log, moments_ms, 3.0, 3).tolist() == [
        [-1, -1, -1],
        [1, -1, -1],
        [3, 4, 1],
        [3, 4, 1],
        [0, 3, 4],
        [5, -1, -1],
    ]
    nothing = interactions_from_columns(["u"], ["i0"], ["view"], [1])
    assert fresh_at(nothing, moments_ms[:1], 3.0, 2).tolist() == [[-1, -1]]


def test_no_source_knows_what_came_at_a_moment_or_after_it() -> None:
    """Whatever happens later, the candidates of a moment stay; sources that are off bring none."""
    rng = np.random.default_rng(0)
    found = [
        (int(rng.integers(4)), int(rng.integers(8)), "view", int(rng.integers(400_000)))
        for _ in range(200)
    ]
    log = log_of(found)
    chosen = Settings(
        features=FEATURES, retrieval=RetrievalSettings(n_neighbours=3, n_trending=2, n_popular=5)
    )
    middle = int(np.sort(log.timestamps_ms)[20])
    events = np.flatnonzero(log.timestamps_ms == middle)[:1]
    history = histories_before(log, events, 10)
    extras = past_extras(log, history, log.timestamps_ms[events], chosen)
    assert [source for source, _ in extras] == [
        Source.NEIGHBOURS,
        Source.TRENDING,
        Source.POPULAR,
        Source.FRESH,
    ]
    assert (extras[0][1] >= 0).any()
    earlier = log.select(log.timestamps_ms < middle)
    again = past_extras(earlier, history, log.timestamps_ms[events], chosen)
    for (_, rows), (_, same) in zip(extras, again, strict=True):
        assert rows.tolist() == same.tolist()
    off = RetrievalSettings(n_neighbours=0, n_trending=0, n_popular=0, n_fresh=0)
    none = past_extras(
        log,
        history,
        log.timestamps_ms[events],
        chosen.model_copy(update={"retrieval": off}),
    )
    assert all(rows.shape == (1, 0) for _, rows in none)
