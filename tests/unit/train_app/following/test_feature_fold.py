"""What events do to histories, windows and pairs, as rules and as properties."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import StoreError
from recsys.events import CatalogueChange, Engagement, Forgotten, Impression, encode_event
from recsys.feature_definitions import MS_PER_DAY, WINDOWS_S, bucket_of, day_of, first_bucket
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_update import FeatureUpdate, StoredPart
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.log.event_log import LogRecord
from recsys.types import HistoryEvent, UserState
from tests.feature_events import (
    NOW_MS,
    RULES,
    a_part,
    a_random_event,
    an_engagement,
    events_part,
    log_records,
)
from train_app.following.features.feature_fold import FoldRules, fold_part, merge_imported
from train_app.following.features.feature_records import decode_part
from train_app.following.store_part import store_part

SHORT = replace(RULES, history_limit=5)


def folded(
    *events: Engagement, rules: FoldRules = SHORT, state: UserState | None = None
) -> UserState:
    """The state of u1 after these engagements."""
    states = {} if state is None else {"u1": state}
    update = fold_part(events_part(*events), StoredPart(0, 0, states), rules)
    return next(iter(update.states), state or UserState("u1"))


def items(state: UserState) -> list[str]:
    """The item ids of a history, oldest first."""
    return [event.item_id for event in state.history]


def pairs_of(update: FeatureUpdate) -> dict[str, int]:
    """The pairs of an update over all days, as 'ab'."""
    counts: Counter[str] = Counter()
    for (_, item_id, other_id), n in update.pair_counts.items():
        counts[item_id + other_id] += n
    return dict(counts)


def test_a_late_event_takes_its_place_in_time() -> None:
    """History is in order of event time, not of arrival; equal times by arrival."""
    state = folded(*(an_engagement(i, t) for i, t in [("a", 10), ("c", 30), ("b", 20), ("d", 30)]))
    assert items(state) == ["a", "b", "c", "d"]


def test_a_full_history_keeps_the_newest() -> None:
    """An event older than a full history changes nothing, not even the version."""
    full = folded(*(an_engagement(f"i{n}", n) for n in range(9)))
    assert items(full) == ["i4", "i5", "i6", "i7", "i8"]
    assert folded(an_engagement("late", 3), state=full) is full
    assert items(folded(an_engagement("new", 6), state=full))[0] == "i5"


def test_every_window_counts_and_dismissals_apart() -> None:
    """A dislike is a signal for the user tower and no vote for the item."""
    batch = events_part(an_engagement("a", kind="dismiss"), an_engagement("a", kind="buy"))
    update = fold_part(batch, StoredPart(0), RULES)
    assert [event.kind for event in update.states[0].history] == ["dismiss", "buy"]
    assert update.item_counts == {(w, bucket_of(NOW_MS, w), "a"): (1, 1) for w in WINDOWS_S}


def test_a_very_late_event_is_history_and_nothing_else() -> None:
    """Within the bound it still counts, where it belongs."""
    late_ms = NOW_MS - RULES.lateness_ms
    before = StoredPart(0, NOW_MS)
    within = fold_part(events_part(an_engagement("a", late_ms)), before, RULES)
    assert within.item_counts[300, bucket_of(late_ms, 300), "a"] == (1, 0)
    events = [an_engagement("b", late_ms - 1), an_engagement("a", late_ms - 2)]
    beyond = fold_part(events_part(*events), before, RULES)
    assert (beyond.item_counts, beyond.pair_counts, beyond.watermark_ms) == ({}, {}, NOW_MS)
    assert items(beyond.states[0]) == ["a", "b"]


def test_a_clock_an_hour_fast_makes_no_other_event_late() -> None:
    """The watermark follows the receiving clock."""
    fast = an_engagement("a", NOW_MS + 3_600_000, received_at_ms=NOW_MS)
    update = fold_part(events_part(fast), StoredPart(0), replace(RULES, lateness_ms=0))
    assert update.watermark_ms == NOW_MS
    assert update.item_counts[300, bucket_of(NOW_MS + 3_600_000, 300), "a"] == (1, 0)


def test_a_jump_of_the_clock_costs_no_counts_of_the_true_time() -> None:
    """Buckets stay for the lateness beyond their window."""
    events = [an_engagement("a", NOW_MS), an_engagement("b", NOW_MS + RULES.lateness_ms)]
    update = fold_part(events_part(*events), StoredPart(0), RULES)
    assert update.item_counts[300, bucket_of(NOW_MS, 300), "a"] == (1, 0)
    assert update.expiry.buckets_before_ms[300] == first_bucket(NOW_MS, 300)


def test_buckets_expire_only_when_the_bound_moves() -> None:
    """Deleting is asked for once per bucket, not once per batch."""
    start_ms = bucket_of(NOW_MS, 86_400)
    moved = RULES.expiry(start_ms + 25_000, start_ms + 24_999)
    assert set(moved.buckets_before_ms) == {300}
    assert RULES.expiry(start_ms + 1000, start_ms).buckets_before_ms == {}


def test_an_engagement_is_paired_with_the_ones_before_it() -> None:
    """Both directions, and in how many pairs each item is."""
    events = [an_engagement(i, NOW_MS + n) for n, i in enumerate("abca")]
    update = fold_part(events_part(*events), StoredPart(0), replace(RULES, pair_history=2))
    counts = pairs_of(update)
    # b with a; c with b, a; the second a with c, b.
    assert {k: n for k, n in counts.items() if k[0] < k[1]} == {"ab": 2, "ac": 2, "bc": 1}
    assert all(counts[k] == counts[k[::-1]] for k in counts)
    assert (counts["aa"], counts["bb"], counts["cc"]) == (4, 3, 3)


def test_pairs_know_earlier_batches_and_their_day() -> None:
    """A stored history is as good as one of the same batch; midnight divides the counts."""
    midnight_ms = (day_of(NOW_MS) + 1) * MS_PER_DAY
    stored = UserState("u1", (HistoryEvent("a", "click", midnight_ms - 1),), 1)
    update = fold_part(
        events_part(an_engagement("b", midnight_ms)), StoredPart(0, 0, {"u1": stored}), RULES
    )
    assert update.pair_counts[day_of(NOW_MS) + 1, "a", "b"] == 1
    assert {day for day, _, _ in update.pair_counts} == {day_of(NOW_MS) + 1}
    assert update.expiry.pairs_before_day == day_of(NOW_MS) + 1 - RULES.pair_days + 1


def test_a_forgotten_user_starts_anew() -> None:
    """What came before is gone, also from pairs to come; what comes after is theirs."""
    stored = UserState("u1", (HistoryEvent("old", "click", NOW_MS - 9),), 7)
    forgotten = Forgotten(event_id="f", user_id="u1", timestamp_ms=NOW_MS)
    other = an_engagement("x", user_id="u2")
    batch = events_part(an_engagement("a"), other, forgotten, an_engagement("b", NOW_MS + 1))
    update = fold_part(batch, StoredPart(0, 0, {"u1": stored}), RULES)
    assert update.forgotten == ("u1",)
    states = {state.user_id: state for state in update.states}
    assert (items(states["u1"]), states["u1"].version) == (["b"], 1)
    assert items(states["u2"]) == ["x"]
    assert "ab" not in pairs_of(update)
    alone = fold_part(events_part(forgotten), StoredPart(0), RULES)
    assert (alone.forgotten, alone.states) == (("u1",), ())


def test_an_event_id_counts_once_while_it_is_remembered() -> None:
    """In one batch, from an earlier one, and again after the window."""
    rules = replace(RULES, dedup_window_ms=1000)
    twice = an_engagement("a")
    update = fold_part(events_part(twice, twice), StoredPart(0), rules)
    assert (items(update.states[0]), update.n_repeated) == (["a"], 1)
    assert update.seen == {twice.event_id: NOW_MS}
    known = StoredPart(0, NOW_MS + 1000, {}, {twice.event_id: NOW_MS})
    assert fold_part(events_part(twice), known, rules).n_repeated == 1
    expired = replace(known, watermark_ms=NOW_MS + 1001)
    assert fold_part(events_part(twice), expired, rules).n_repeated == 0
    assert fold_part(events_part(twice), known, RULES).seen == {}


def test_records_that_are_no_events_are_set_aside_with_the_reason() -> None:
    """A bad record never stops the ones behind it."""
    values = [
        b"no json",
        b'{"type":"engagement"}',
        b'{"type":"unheard"}',
        b"[" * 10_000,
        b'{"type":"engagement","user_id":"\xff"}',
        encode_event(an_engagement(timestamp_ms=NOW_MS + 7_200_000, received_at_ms=NOW_MS)),
        encode_event(an_engagement(timestamp_ms=5)),
        encode_event(an_engagement("good")),
    ]
    records = [LogRecord(0, n, f"e{n}", value) for n, value in enumerate(values)]
    found = decode_part(0, 8, records)
    assert [e.item_id for e in found.events if isinstance(e, Engagement)] == ["good"]
    assert [record.offset for record, _ in found.bad] == [0, 1, 2, 3, 4, 5, 6]
    assert all(reason for _, reason in found.bad)


def test_served_slates_and_emptied_records_change_nothing() -> None:
    """Impressions are most of the log and no feature; a void is not even bad."""
    impression = Impression(
        event_id="e", request_id="r", user_id="u", timestamp_ms=1, bundle_id="b", variant="stable",
        slate=(),
    )  # fmt: skip
    change = CatalogueChange(event_id="c", item_id="i", timestamp_ms=1)
    values = [encode_event(impression), b'{"type":"void"}', encode_event(change)]
    found = decode_part(1, 7, [LogRecord(1, 4 + n, f"e{n}", v) for n, v in enumerate(values)])
    assert (found.events, found.bad, found.next_offset) == ((change,), (), 7)


def test_importing_the_same_history_twice_changes_nothing() -> None:
    """Also with more events than are kept, all at one time."""
    imported = [HistoryEvent(f"i{n}", "view", 7) for n in range(12)]
    once, added = merge_imported(UserState("u1"), imported, limit=5)
    assert (items(once), len(added)) == (["i7", "i8", "i9", "i10", "i11"], 5)
    assert merge_imported(once, imported, limit=5) == (once, [])


def test_an_import_merges_with_live_history() -> None:
    """Events known from both sides count once; the live ones stay."""
    live = folded(an_engagement("live", 20))
    imported = [HistoryEvent("old", "view", 10), HistoryEvent("live", "click", 20)]
    merged, added = merge_imported(live, imported, limit=5)
    assert items(merged) == ["old", "live"]
    assert added == [HistoryEvent("old", "view", 10)]
    assert merged.version > live.version


@settings(deadline=None, max_examples=50)
@given(
    stored=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), max_size=8),
    imported=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 6)), max_size=12),
)
def test_a_second_import_is_never_seen(
    stored: list[tuple[str, int]], imported: list[tuple[str, int]]
) -> None:
    """Whatever was there before, and however many events share a time."""
    before = folded(*(an_engagement(i, t) for i, t in stored))
    events = [HistoryEvent(item_id, "click", time) for item_id, time in imported]
    once, _ = merge_imported(before, events, limit=5)
    again, added = merge_imported(once, events, limit=5)
    assert (again, added) == (once, [])
    assert [e.timestamp_ms for e in once.history] == sorted(e.timestamp_ms for e in once.history)
    assert len(once.history) <= 5


def stored_bytes(writer: SqliteFeatureWriter) -> bytes:
    """The canonical form of everything stored."""
    contents = writer.contents()
    writer.close()
    return canonical_bytes(contents)


def follow_whole(path: Path, log: dict[int, list[LogRecord]], rules: FoldRules) -> bytes:
    """Every partition in one go."""
    writer = SqliteFeatureWriter(path)
    for records in log.values():
        if records:
            store_part(writer, None, a_part(records), rules)
    return stored_bytes(writer)


def follow_badly(
    path: Path, log: dict[int, list[LogRecord]], rules: FoldRules, rng: random.Random
) -> bytes:
    """Random runs of random partitions; some die half-way, some come from another offset."""
    writer = SqliteFeatureWriter(path)

    def die(_: StoredPart) -> FeatureUpdate:
        raise StoreError("died")

    while behind := [p for p in log if (writer.offset(p) or 0) < len(log[p])]:
        partition = rng.choice(behind)
        offset = writer.offset(partition)
        start, n = offset or 0, rng.choice([1, 2, 5, 40])
        part = a_part(log[partition][start : start + n])
        match rng.randrange(5):
            case 0:
                with pytest.raises(StoreError):
                    writer.update(partition, offset, part.user_ids, part.event_ids, die)
            case 1:
                assert store_part(writer, start + 1, part, rules) is None
            case _:
                assert store_part(writer, offset, part, rules) is not None
    return stored_bytes(writer)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 10**6), dedup_ms=st.sampled_from([0, 3_600_000, 10**9]))
def test_any_way_through_the_log_ends_in_the_same_store(seed: int, dedup_ms: int) -> None:
    """Batches, interleavings, deaths and competitors leave no trace, byte for byte."""
    rng = random.Random(seed)
    events = [a_random_event(n, rng) for n in range(rng.randrange(1, 150))]
    repeated = rng.choices(events, k=len(events) // 5) if dedup_ms else []
    log = log_records([*events, *repeated], n_partitions=3)
    rules = replace(RULES, dedup_window_ms=dedup_ms)
    with tempfile.TemporaryDirectory() as directory:
        whole = follow_whole(Path(directory, "whole"), log, rules)
        assert follow_badly(Path(directory, "badly"), log, rules, rng) == whole


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10**6))
def test_a_history_is_the_newest_events_in_order(seed: int) -> None:
    """Equal to sorting everything that ever arrived and keeping the end."""
    rng = random.Random(seed)
    times = [NOW_MS + rng.randrange(20) for _ in range(rng.randrange(30))]
    events = [an_engagement(f"i{n}", t, event_id=f"e{n}") for n, t in enumerate(times)]
    newest = sorted(events, key=lambda event: event.timestamp_ms)[-5:]
    assert items(folded(*events)) == [event.item_id for event in newest]


def windows_at(updates: Sequence[FeatureUpdate], window_s: int, now_ms: int) -> Counter[str]:
    """The positive counts of a window, from updates."""
    counts: Counter[str] = Counter()
    for update in updates:
        for (w, bucket_ms, item_id), (n, _) in update.item_counts.items():
            if w == window_s and first_bucket(now_ms, w) <= bucket_ms <= bucket_of(now_ms, w):
                counts[item_id] += n
    return counts


def test_a_window_forgets_what_is_older_than_it() -> None:
    """Five minutes later the five-minute count is empty, and the day's is not."""
    update = fold_part(events_part(an_engagement("a")), StoredPart(0), RULES)
    assert windows_at([update], 300, NOW_MS) == {"a": 1}
    assert windows_at([update], 300, NOW_MS + 300_000) == {}
    assert windows_at([update], 86_400, NOW_MS + 300_000) == {"a": 1}
