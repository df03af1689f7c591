"""What every feature store does with updates: all of each or nothing, and each record once."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest

from recsys.errors import StoreError
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_store import FeatureStore
from recsys.stores.features.feature_update import (
    Expiry,
    FeatureUpdate,
    FeatureWriter,
    MergedUsers,
    StoredPart,
)
from recsys.types import UserState
from tests.feature_backends import (
    FeatureBackend,
    a_state,
    counting,
    raised,
    store,
    together,
)


def never(before: StoredPart) -> FeatureUpdate:
    """A fold that must not be asked."""
    raise AssertionError(before)


def test_an_update_from_another_offset_changes_nothing(writer: FeatureWriter) -> None:
    """Whoever is late learns it and resumes from what is stored."""
    assert writer.update(0, 0, [], [], never) is None
    assert writer.offset(0) is None
    store(writer, FeatureUpdate(0, 5))
    before = canonical_bytes(writer.contents())
    for wrong in (None, 0, 4, 6):
        assert writer.update(0, wrong, ["u"], ["e"], never) is None
    assert canonical_bytes(writer.contents()) == before
    assert writer.offset(0) == 5


def test_the_fold_gets_what_is_stored_of_what_it_asked_for(writer: FeatureWriter) -> None:
    """Before the first batch there is no offset; nobody else's state and id comes along."""
    states = (a_state("u1", 3), a_state("ü2", 1), a_state("u3", 1))
    seen = {"e1": 700, "é" * 128: 800, "e3": 900}
    first = store(writer, FeatureUpdate(1, 5, 1000, states=states, seen=seen), ["u1"], ["e1"])
    assert first == StoredPart(None)
    second = store(writer, FeatureUpdate(1, 6), ["ü2", "new", "u1", "u1"], ["é" * 128, "e9", "e1"])
    assert second == StoredPart(
        offset=5,
        watermark_ms=1000,
        states={"u1": states[0], "ü2": states[1]},
        seen_ms={"e1": 700, "é" * 128: 800},
    )
    other_partition = store(writer, FeatureUpdate(2, 1), ["u1"], ["e1"])
    assert other_partition == StoredPart(None, states={"u1": states[0]})


def test_large_batches_are_one_update(writer: FeatureWriter) -> None:
    """More users, ids and counts than any one command or query takes."""
    states = tuple(a_state(f"u{n}", 2) for n in range(2500))
    update = FeatureUpdate(
        partition=0,
        next_offset=2500,
        states=states,
        seen={f"e{n}": n for n in range(2500)},
        item_counts={(300, 0, f"i{n}"): (n, 2500 - n) for n in range(2500)},
        pair_counts={(n % 3, f"i{n}", f"i{n + 1}"): n + 1 for n in range(2500)},
    )
    store(writer, update)
    ids = [state.user_id for state in states]
    again = store(writer, FeatureUpdate(0, 2501), ids, list(update.seen))
    assert dict(again.states) == {state.user_id: state for state in states}
    assert dict(again.seen_ms) == dict(update.seen)
    contents = writer.contents()
    assert contents.item_counts == {(0, key): n for key, n in update.item_counts.items()}
    assert contents.pair_counts == {(0, key): n for key, n in update.pair_counts.items()}


def test_counts_add_up_per_partition(writer: FeatureWriter) -> None:
    """Each partition has its own, so that it can be replayed alone."""
    counts = {(300, 0, "a"): (2, 1), (3600, 0, "a"): (5, 0)}
    pairs = {(9, "a", "b"): 2, (9, "b", "a"): 2, (9, "a", "a"): 2, (9, "b", "b"): 2}
    for offset in (1, 2, 3):
        store(writer, FeatureUpdate(0, offset, item_counts=counts, pair_counts=pairs))
    store(writer, FeatureUpdate(1, 1, item_counts=counts))
    contents = writer.contents()
    assert contents.partitions == {0: (3, 0), 1: (1, 0)}
    assert contents.item_counts == {
        (0, (300, 0, "a")): (6, 3),
        (0, (3600, 0, "a")): (15, 0),
        (1, (300, 0, "a")): (2, 1),
        (1, (3600, 0, "a")): (5, 0),
    }
    assert contents.pair_counts == {(0, pair): 6 for pair in pairs}


def test_a_forgotten_user_is_removed_before_the_new_states_are_written(
    writer: FeatureWriter, reader: FeatureStore
) -> None:
    """What came after the wish to be forgotten is kept."""
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 9), a_state("u2", 9))))
    after = FeatureUpdate(0, 2, forgotten=("u1", "u2", "nobody"), states=(a_state("u2", 1),))
    store(writer, after, ["u2"])
    assert reader.read_users(["u1", "u2"]) == [UserState("u1"), a_state("u2", 1)]


def test_a_user_is_forgotten_at_once(writer: FeatureWriter, reader: FeatureStore) -> None:
    """The answer says whether there was anything."""
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 2), a_state("u2", 2))))
    assert writer.forget_user("u1")
    assert not writer.forget_user("u1")
    assert not writer.forget_user("nobody")
    assert reader.read_users(["u1", "u2"]) == [UserState("u1"), a_state("u2", 2)]
    assert writer.offset(0) == 1


def test_what_has_expired_is_gone(writer: FeatureWriter) -> None:
    """Buckets, pairs and ids of the partition, and of no other."""
    update = FeatureUpdate(
        partition=0,
        next_offset=1,
        item_counts={(300, 1000, "a"): (1, 0), (300, 2000, "a"): (1, 0), (3600, 0, "a"): (1, 0)},
        pair_counts={(7, "a", "b"): 1, (8, "a", "b"): 1},
        seen={"old": 50, "kept": 60},
    )
    store(writer, update)
    store(
        writer,
        FeatureUpdate(
            1,
            1,
            item_counts=update.item_counts,
            pair_counts=update.pair_counts,
            seen=update.seen,
        ),
    )
    store(writer, FeatureUpdate(0, 2, expiry=Expiry({300: 2000, 3600: 0}, 8, 60)))
    contents = writer.contents()
    assert contents.item_counts == {
        (0, (300, 2000, "a")): (1, 0),
        (0, (3600, 0, "a")): (1, 0),
        **{(1, bucket): n for bucket, n in update.item_counts.items()},
    }
    assert contents.pair_counts == {
        (0, (8, "a", "b")): 1,
        **{(1, pair): n for pair, n in update.pair_counts.items()},
    }
    assert contents.n_seen == {0: 1, 1: 2}


def test_a_fold_that_fails_changes_nothing(writer: FeatureWriter) -> None:
    """Its error is the caller's."""
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 1),)))
    before = canonical_bytes(writer.contents())

    def fails(_: StoredPart) -> FeatureUpdate:
        raise StoreError("no")

    with pytest.raises(StoreError, match="no"):
        writer.update(0, 1, ["u1"], [], fails)
    assert canonical_bytes(writer.contents()) == before
    store(writer, FeatureUpdate(0, 2))


def test_of_two_writers_with_the_same_records_one_counts_them(backend: FeatureBackend) -> None:
    """Four writers race through one partition; every record is counted once."""
    users, n_batches = ["u1", "u2"], 60
    n_won: list[int] = []

    def follow() -> None:
        writer = backend.writer()
        n_mine = 0
        while (offset := writer.offset(0) or 0) < 10 * n_batches:
            expected = writer.offset(0)
            if (expected or 0) != offset:
                continue
            update = writer.update(0, expected, users, [], counting(users, 10))
            n_mine += update is not None
        n_won.append(n_mine)
        writer.close()

    together([follow] * 4)
    assert sum(n_won) == n_batches
    reader = backend.reader()
    assert [state.version for state in reader.read_users(users)] == [n_batches] * 2
    assert reader.offsets() == {0: 10 * n_batches}
    reader.close()


def test_an_import_and_the_stream_lose_nothing_of_each_other(backend: FeatureBackend) -> None:
    """Both change the same users at once."""
    users, n_each = [f"u{n}" for n in range(150)], 25

    def import_them() -> None:
        writer = backend.writer()
        for _ in range(n_each):
            writer.merge_users(
                users, lambda states: MergedUsers(raised(states, users), {"a": 1, "b": 2})
            )
        writer.close()

    def stream() -> None:
        writer = backend.writer()
        for _ in range(n_each):
            assert writer.update(0, writer.offset(0), users, [], counting(users, 1))
        writer.close()

    together([import_them, stream, import_them])
    reader, writer = backend.reader(), backend.writer()
    assert {state.version for state in reader.read_users(users)} == {3 * n_each}
    assert writer.most_imported(9) == [("b", 4 * n_each), ("a", 2 * n_each)]
    reader.close()
    writer.close()


def test_readers_see_updates_whole(backend: FeatureBackend) -> None:
    """All users of an update change at once for everybody."""
    users = [f"u{n}" for n in range(40)]
    is_over = threading.Event()
    torn: list[list[int]] = []

    def read() -> None:
        reader = backend.reader()
        while not is_over.is_set():
            versions = [state.version for state in reader.read_users(users)]
            if len(set(versions)) != 1:
                torn.append(versions)
        reader.close()

    def write() -> None:
        writer = backend.writer()
        for _ in range(150):
            assert writer.update(0, writer.offset(0), users, [], counting(users, 1))
        writer.close()
        is_over.set()

    together([write, read, read])
    assert torn == []


def test_imported_users_and_counts_are_merged(writer: FeatureWriter, reader: FeatureStore) -> None:
    """The merge gets the stored states; an empty result changes nothing; offsets stay."""
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 2),)))
    given: list[Mapping[str, UserState]] = []

    def merge(states: Mapping[str, UserState]) -> MergedUsers:
        given.append(dict(states))
        return MergedUsers((a_state("u1", 5), a_state("u2", 1)), {"a": 3, "b": 3, "c": 4})

    writer.merge_users(["u1", "u2"], merge)
    assert given[-1] == {"u1": a_state("u1", 2)}
    assert reader.read_users(["u1", "u2"]) == [a_state("u1", 5), a_state("u2", 1)]
    assert writer.merge_users(["u1"], lambda _: MergedUsers()) == MergedUsers()
    writer.merge_users([], lambda _: MergedUsers((), {"b": 1}))
    assert writer.most_imported(2) == [("b", 4), ("c", 4)]
    assert writer.most_imported(9) == [("b", 4), ("c", 4), ("a", 3)]
    assert writer.offset(0) == 1
