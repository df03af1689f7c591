"""What readers see when a store that was computed anew takes the place of the one they read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recsys.events import CatalogueChange
from recsys.feature_definitions import MS_PER_DAY
from recsys.stores.features.feature_draft import open_feature_draft
from recsys.stores.features.feature_store import FeatureStore, NeighbourMark, SqliteFeatureStore
from recsys.stores.features.feature_update import FeatureUpdate, FeatureWriter, PairTotals, Ranked
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from tests.feature_backends import FeatureBackend, a_deletion, pairs_of, store

DAY_9_MS = 9 * MS_PER_DAY


def partners(totals: PairTotals) -> dict[str, Ranked]:
    """Everything an item is paired with, with the number of pairs."""
    return {
        item_id: sorted((other_id, float(n)) for other_id, n in pairs.items())
        for item_id, pairs in totals.pairs.items()
    }


def fill(
    writer: FeatureWriter,
    pairs: Sequence[tuple[str, str]],
    catalogue: Sequence[CatalogueChange] = (),
) -> None:
    """One update for each pair, the first one with the catalogue, and the lists after each."""
    for n, pair in enumerate(pairs):
        changes = () if n else tuple(catalogue)
        counts = pairs_of(pair)
        store(writer, FeatureUpdate(0, n + 1, DAY_9_MS, pair_counts=counts, catalogue=changes))
        writer.refresh_neighbours(100, 0, partners)


def replaced(
    backend: FeatureBackend,
    pairs: Sequence[tuple[str, str]],
    catalogue: Sequence[CatalogueChange] = (),
) -> None:
    """Fill a draft and put it in place."""
    draft = open_feature_draft(backend.settings)
    try:
        writer = draft.writer()
        fill(writer, pairs, catalogue)
        writer.close()
        draft.put_in_place()
    finally:
        draft.remove()


def test_the_lists_of_a_smaller_store_replace_those_that_were_read(
    backend: FeatureBackend, writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Its versions begin again below the mark's: all of it is told, as of another store."""
    fill(writer, [("a", "b"), ("a", "c"), ("a", "d")])
    mark = reader.changed_neighbours(NeighbourMark(), 9, 99).mark
    replaced(backend, [("d", "e")])
    changes = reader.changed_neighbours(mark, 9, 99)
    assert changes.lists == {"d": [("e", 1.0)], "e": [("d", 1.0)]}
    assert (changes.is_anew, changes.is_all) == (True, True)
    again = reader.changed_neighbours(changes.mark, 9, 99)
    assert (again.lists, again.is_anew) == ({}, False)


def test_a_store_opened_again_is_told_from_the_one_put_in_its_place(
    backend: FeatureBackend, reader: FeatureStore
) -> None:
    """Also by a reader that begins, and by one that has given the store back meanwhile."""
    writer = backend.writer()
    fill(writer, [("a", "b"), ("a", "c")])
    writer.close()
    marks = [reader.changed_neighbours(NeighbourMark(), 9, 99).mark]
    for pair in (("d", "e"), ("f", "g")):
        replaced(backend, [pair])
        reader.close()
        changes = reader.changed_neighbours(marks[-1], 9, 99)
        assert set(changes.lists) == set(pair)
        marks.append(changes.mark)
    assert len({mark.store for mark in marks}) == 3


def test_deleted_items_are_those_of_the_store_that_was_put_in_place(
    backend: FeatureBackend, writer: FeatureWriter, reader: FeatureStore
) -> None:
    """Though its catalogue has come to the same version."""
    fill(writer, [("a", "b")], [a_deletion("a")])
    assert reader.catalogue(0).blocked == {"a"}
    version = reader.catalogue(0).version
    assert reader.catalogue(version).blocked == {"a"}
    replaced(backend, [("a", "b")], [a_deletion("b")])
    view = reader.catalogue(version)
    assert (view.version, view.blocked) == (version, {"b"})


def test_a_file_of_before_gets_an_identity_from_its_next_writer(tmp_path: Path) -> None:
    """One that stays; and what was read of it until then is read once more."""
    path = tmp_path / "features.sqlite"
    writer = SqliteFeatureWriter(path)
    fill(writer, [("a", "b")])
    writer._connection.execute("PRAGMA user_version=0")
    writer.close()
    reader = SqliteFeatureStore(path)
    old = reader.changed_neighbours(NeighbourMark(), 9, 99).mark
    for _ in range(2):
        SqliteFeatureWriter(path).close()
        changes = reader.changed_neighbours(old, 9, 99)
        assert (set(changes.lists), changes.is_anew) == ({"a", "b"}, True)
    assert changes.mark == reader.changed_neighbours(changes.mark, 9, 99).mark
    reader.close()
