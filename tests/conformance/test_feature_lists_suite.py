"""What every feature store does with counts and pairs: windows, neighbours, and equal contents."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from recsys.feature_definitions import MS_PER_DAY
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_store import FeatureStore, NeighbourMark
from recsys.stores.features.feature_update import (
    Expiry,
    FeatureUpdate,
    FeatureWriter,
    PairTotals,
    PartitionWindows,
    Ranked,
)
from recsys.types import HistoryEvent, UserState
from tests.feature_backends import (
    BACKENDS,
    FeatureBackend,
    a_deletion,
    a_feature_backend,
    a_put,
    emptied,
    pairs_of,
    store,
    together,
)

DAY_9_MS = 9 * MS_PER_DAY


def partners(totals: PairTotals) -> dict[str, Ranked]:
    """Everything an item is paired with, with the number of pairs."""
    return {
        item_id: sorted((other_id, float(n)) for other_id, n in pairs.items())
        for item_id, pairs in totals.pairs.items()
    }


def refresh(writer: FeatureWriter, limit: int = 100, since_day: int = 0) -> list[str]:
    """Make the neighbours of stale items; which."""
    made: list[list[str]] = [[]]

    def rank(totals: PairTotals) -> dict[str, Ranked]:
        made.append(sorted(totals.pairs))
        return partners(totals)

    assert writer.refresh_neighbours(limit, since_day, rank) == len(made[-1])
    return made[-1]


def test_windows_are_one_partition_s_counts_of_the_windows_asked_for(
    writer: FeatureWriter,
) -> None:
    """In one snapshot with its offset."""
    assert writer.windows(0, [300]) == PartitionWindows(None)
    counts = {(300, 0, "a"): (2, 1), (3600, 0, "ü:b"): (5, 0), (86_400, 0, "a"): (1, 1)}
    store(writer, FeatureUpdate(0, 7, 99, item_counts=counts))
    store(writer, FeatureUpdate(1, 1, item_counts=counts))
    windows = writer.windows(0, (300, 3600))
    assert (windows.offset, windows.watermark_ms) == (7, 99)
    assert windows.item_counts == {(300, 0, "a"): (2, 1), (3600, 0, "ü:b"): (5, 0)}


def test_items_of_new_pairs_get_new_neighbours_once(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Those that wait longest come first; sums are over partitions and days."""
    assert refresh(writer) == []
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"))))
    store(writer, FeatureUpdate(0, 2, DAY_9_MS, pair_counts=pairs_of(("c", "d"))))
    store(writer, FeatureUpdate(1, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"), day=6)))
    assert refresh(writer, limit=2) == ["a", "b"]
    assert reader.neighbours(["a", "b", "c"], 9) == [[("b", 2.0)], [("a", 2.0)], []]
    assert refresh(writer, limit=9) == ["c", "d"]
    assert refresh(writer) == []
    store(writer, FeatureUpdate(0, 3, DAY_9_MS, pair_counts=pairs_of(("ü", "a"))))
    assert refresh(writer) == ["a", "ü"]
    assert reader.neighbours(["a", "ü"], 9) == [[("b", 2.0), ("ü", 1.0)], [("a", 1.0)]]


def test_the_totals_have_the_degree_of_every_item_they_name(writer: FeatureWriter) -> None:
    """In how many pairs an item is, over all of its partners."""
    found: list[PairTotals] = []
    store(
        writer,
        FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"), ("a", "c"), ("b", "d"))),
    )
    writer.refresh_neighbours(1, 0, lambda totals: found.append(totals) or {})  # type: ignore[func-returns-value]
    assert found[-1].pairs == {"a": {"b": 1, "c": 1}}
    assert found[-1].degrees == {"a": 2, "b": 2, "c": 1}


def test_neighbours_of_expired_pairs_are_made_anew(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """An item whose last pair expired has no neighbours, and counts in nobody's degree."""
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"))))
    store(writer, FeatureUpdate(0, 2, DAY_9_MS, pair_counts=pairs_of(("a", "c"), day=6)))
    assert refresh(writer) == ["a", "b", "c"]
    store(writer, FeatureUpdate(0, 3, DAY_9_MS, expiry=Expiry(pairs_before_day=6)))
    assert refresh(writer, since_day=6) == ["a", "b"]
    assert reader.neighbours(["a", "b", "c"], 9) == [[("c", 1.0)], [], [("a", 1.0)]]
    found: list[PairTotals] = []
    store(writer, FeatureUpdate(0, 4, DAY_9_MS, pair_counts=pairs_of(("a", "b"), day=7)))
    writer.refresh_neighbours(9, 6, lambda totals: found.append(totals) or {})  # type: ignore[func-returns-value]
    assert found[-1].degrees == {"a": 2, "b": 1, "c": 1}


def test_changed_neighbours_are_read_from_mark_to_mark(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Each list once, oldest change first; nothing where nothing changed, and cut to the limit."""
    start = NeighbourMark()
    assert reader.changed_neighbours(start, 9, 5).lists == {}
    pairs = pairs_of(("a", "b"), ("a", "c"), ("c", "ü"))
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs))
    refresh(writer)
    first = reader.changed_neighbours(start, 1, 3)
    assert (len(first.lists), first.is_anew, first.is_all) == (3, True, False)
    second = reader.changed_neighbours(first.mark, 1, 3)
    assert (len(second.lists), second.is_anew, second.is_all) == (1, False, True)
    both = {**first.lists, **second.lists}
    assert [both[i] for i in ("a", "b", "c", "ü")] == reader.neighbours(["a", "b", "c", "ü"], 1)
    still = reader.changed_neighbours(second.mark, 1, 3)
    assert (still.lists, still.mark, still.is_anew, still.is_all) == (
        {},
        second.mark,
        False,
        True,
    )
    store(writer, FeatureUpdate(0, 2, DAY_9_MS, pair_counts=pairs_of(("b", "ü"), day=6)))
    refresh(writer)
    third = reader.changed_neighbours(still.mark, 9, 3)
    assert set(third.lists) == {"b", "ü"}
    assert dict(third.lists["b"]) == {"a": 1.0, "ü": 1.0}


def test_neighbours_that_are_gone_are_told_as_changed(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """An empty list, to whoever has read what was there."""
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"))))
    refresh(writer)
    mark = reader.changed_neighbours(NeighbourMark(), 9, 9).mark
    store(writer, FeatureUpdate(0, 2, DAY_9_MS, expiry=Expiry(pairs_before_day=6)))
    refresh(writer, since_day=6)
    changes = reader.changed_neighbours(mark, 9, 9)
    assert changes.lists == {"a": [], "b": []}
    assert not changes.is_anew


def test_a_store_that_was_emptied_is_told_from_the_one_that_was_read(
    backend: FeatureBackend,
) -> None:
    """Marks of the old one lead to everything the new one holds."""
    writer, reader = backend.writer(), backend.reader()
    for n in range(3):
        pairs = pairs_of(("a", "b"), ("a", f"c{n}"))
        store(writer, FeatureUpdate(0, n + 1, DAY_9_MS, pair_counts=pairs))
        refresh(writer)
    mark = reader.changed_neighbours(NeighbourMark(), 9, 99).mark
    writer.close()
    emptied(backend)
    gone = reader.changed_neighbours(mark, 9, 99)
    assert (gone.lists, gone.is_anew, gone.is_all) == ({}, True, True)
    writer = backend.writer()
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("d", "e"))))
    refresh(writer)
    for since in (mark, gone.mark):
        changes = reader.changed_neighbours(since, 9, 99)
        assert changes.lists == {"d": [("e", 1.0)], "e": [("d", 1.0)]}
        assert changes.is_anew
    writer.close()
    reader.close()


def test_pairs_of_earlier_days_do_not_count(writer: FeatureWriter, reader: FeatureStore) -> None:
    """Whether they are deleted yet or not."""
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"), day=4)))
    store(writer, FeatureUpdate(0, 2, DAY_9_MS, pair_counts=pairs_of(("a", "c"), day=5)))
    refresh(writer, since_day=5)
    assert reader.neighbours(["a", "b"], 9) == [[("c", 1.0)], []]


def test_a_ranking_that_fails_leaves_the_items_waiting(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """The next call makes them."""
    store(writer, FeatureUpdate(0, 1, DAY_9_MS, pair_counts=pairs_of(("a", "b"))))

    def fails(_: PairTotals) -> dict[str, Ranked]:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        writer.refresh_neighbours(9, 0, fails)
    assert reader.neighbours(["a"], 9) == [[]]
    assert refresh(writer) == ["a", "b"]


def test_a_pair_that_comes_while_neighbours_are_made_is_not_lost(backend: FeatureBackend) -> None:
    """Writers and makers of lists work at once; in the end every list is right."""
    n_updates = 60

    def stream() -> None:
        writer = backend.writer()
        for n in range(n_updates):
            pairs = pairs_of(("a", f"b{n % 7}"), (f"b{n % 5}", "c"))
            store(writer, FeatureUpdate(0, n + 1, DAY_9_MS, pair_counts=pairs))
        writer.close()

    def make_lists() -> None:
        writer = backend.writer()
        while (writer.offset(0) or 0) < n_updates:
            writer.refresh_neighbours(3, 0, partners)
        writer.close()

    together([stream, make_lists, make_lists])
    writer, reader = backend.writer(), backend.reader()
    while refresh(writer, limit=3):
        pass
    expected: dict[str, dict[str, float]] = {}
    for (_, (_, item_id, other_id)), n in writer.contents().pair_counts.items():
        if item_id != other_id:
            expected.setdefault(item_id, {})[other_id] = float(n)
    item_ids = sorted(expected)
    found = reader.neighbours(item_ids, 100)
    assert [dict(ranked) for ranked in found] == [expected[item_id] for item_id in item_ids]
    writer.close()
    reader.close()


def test_the_newest_change_of_an_item_is_kept_over_all_partitions(writer: FeatureWriter) -> None:
    """Versions go on where they were."""
    store(writer, FeatureUpdate(0, 1, catalogue=(a_put("a"), a_deletion("b"))))
    store(writer, FeatureUpdate(1, 1, catalogue=(a_deletion("a"), a_put("b", "back"))))
    assert writer.contents().catalogue == {
        "a": (True, "", (), "", None),
        "b": (False, "back", ("drama", "ü"), "somebody", -5),
    }


def test_the_same_updates_leave_the_same_contents_in_every_store(tmp_path: Path) -> None:
    """Bit for bit, whatever keeps them: a random run with late expiry and forgotten users."""
    found = []
    for kind in BACKENDS:
        with a_feature_backend(kind, tmp_path / kind) as backend:
            writer, reader = backend.writer(), backend.reader()
            for update in random_updates(random.Random(11)):
                store(writer, update)
                refresh(writer, limit=7)
            users = reader.read_users([f"u{n}" for n in range(40)])
            counts = reader.item_counts([f"i{n}" for n in range(12)], DAY_9_MS + 60 * 25_000)
            lists = reader.neighbours([f"i{n}" for n in range(12)], 9)
            found.append((canonical_bytes(writer.contents()), users, counts, lists))
            writer.close()
            reader.close()
    assert found[0] == found[1]
    assert len(found[0][0]) > 1000


def random_updates(rng: random.Random) -> list[FeatureUpdate]:
    """Sixty updates of two partitions, whose windows move on."""

    def item() -> str:
        return f"i{rng.randrange(12)}"

    updates = []
    for n in range(60):
        partition = n % 2
        now_ms = DAY_9_MS + n * 25_000
        users = [f"u{rng.randrange(20) + 20 * partition}" for _ in range(4)]
        history = tuple(HistoryEvent(item(), "click", rng.randrange(9**9)) for _ in range(n % 9))
        updates.append(
            FeatureUpdate(
                partition=partition,
                next_offset=n + 1,
                watermark_ms=now_ms,
                forgotten=tuple(users[:1]) if n % 7 == 0 else (),
                states=tuple(UserState(user, history, n) for user in dict.fromkeys(users)),
                item_counts={
                    (w, now_ms - now_ms % (w * 1000 // 12), item()): (
                        rng.randrange(9),
                        rng.randrange(3),
                    )
                    for w in (300, 3600, 86_400)
                },
                pair_counts=pairs_of((item(), item() + "x"), day=4 + n // 10),
                catalogue=(a_put(item(), str(n)), a_deletion(item())) if n % 5 == 0 else (),
                seen={f"e{rng.randrange(10**9)}": now_ms for _ in range(3)},
                expiry=Expiry({300: now_ms - 300_000}, 4 + n // 10 - 3, now_ms - 500_000),
            )
        )
    return updates
