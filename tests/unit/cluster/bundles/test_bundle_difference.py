"""What the difference of two bundles says, as data and as text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.bundles.bundle_difference import (
    BundleDifference,
    ItemChanges,
    difference,
    difference_text,
    flat,
    shown_metrics,
)
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt, BundleNotFound
from recsys.settings import Settings
from recsys.types import Item
from tests.parts_for_tests import publish_parts, tear


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """b1, and b2 that differs from it in everything."""
    settings = Settings(data_dir=tmp_path / "var")
    publish_parts(
        settings,
        tmp_path,
        "b1",
        ordering={"pool": 9},
        items=[Item("i0", "Zero"), Item("i1", "One"), Item("i2")],
        metrics={"methods": {"ndcg": 0.25}, "same": 1},
        lineage={"lake_version": 3},
    )
    publish_parts(
        settings,
        tmp_path,
        "b2",
        second=60,
        space="other",
        scorer="a longer scorer",
        ordering={"pool": 9, "diversity": 0.5},
        items=[Item("i1", "Une"), Item("i0", "Zero"), Item("i3")],
        metrics={"methods": {"ndcg": 0.125}, "same": 1},
        lineage={"lake_version": 4},
        parents=("b1",),
    )
    return Registry(settings.registry_location)


def test_every_difference_is_named(registry: Registry) -> None:
    """With both values, and nothing that is the same."""
    found = difference(registry, "b1", "b2")
    assert found.settings == {"ordering.diversity": (None, 0.5)}
    assert found.metrics == {"methods.ndcg": (0.25, 0.125)}
    assert found.lineage == {"lake_version": (3, 4)}
    assert found.facts["parents"] == ([], ["b1"])
    assert "embedding space" in found.facts
    assert "feature schema" not in found.facts
    assert found.files["scorer.safetensors"] == (6, 15)
    assert "towers.json" not in found.files
    items = found.items
    assert (items.added, items.removed, items.changed) == (("i3",), ("i2",), ("i1",))
    assert (items.n_before, items.n_after, items.has_same_rows) == (3, 3, False)


def test_the_parts_that_could_be_exchanged_are_named(registry: Registry) -> None:
    """In both directions."""
    exchange = difference(registry, "b1", "b2").exchange
    assert exchange["ordering of b2 in b1"] == "fits"
    assert exchange["scorer of b1 in b2"].startswith("does not fit: another catalogue")


def test_the_text_and_the_document_say_the_same(registry: Registry) -> None:
    """The document is JSON."""
    found = difference(registry, "b1", "b2")
    text = difference_text(found)
    for line in (
        "b1 -> b2",
        "  ordering.diversity: none -> 0.5",
        "  methods.ndcg: 0.25 -> 0.125",
        "  scorer.safetensors: 6 -> 15",
        "items  3 -> 3, rows moved",
        "  1 added: i3",
        "  ordering of b1 in b2: fits",
    ):
        assert line in text.splitlines()
    document = json.loads(json.dumps(found.to_json()))
    assert document["settings"] == {"ordering.diversity": {"first": None, "second": 0.5}}


def test_a_bundle_does_not_differ_from_itself(registry: Registry) -> None:
    """And both parts are the same."""
    found = difference(registry, "b1", "b1")
    assert not any((found.facts, found.files, found.settings, found.metrics, found.lineage))
    assert found.items.has_same_rows
    assert set(found.exchange.values()) == {"same"}


def test_what_cannot_be_read_is_named(registry: Registry) -> None:
    """Unknown, half-deleted, and changed in place."""
    with pytest.raises(BundleNotFound):
        difference(registry, "b1", "b9")
    settings_file = Path(registry.url, "b2", "settings.json")
    settings_file.write_text("{}")
    with pytest.raises(BundleCorrupt, match=r"settings.json of bundle b2"):
        difference(registry, "b1", "b2")
    settings_file.parent.joinpath("manifest.json").unlink()
    with pytest.raises(BundleCorrupt, match=r"manifest.json of bundle b2"):
        difference(registry, "b1", "b2")


def test_a_tree_is_read_by_its_leaves() -> None:
    """A list, and a table without keys, are leaves."""
    assert flat({"a": {"b": 1, "c": [2]}, "d": {}}) == {"a.b": 1, "a.c": [2], "d": {}}


def test_a_half_deleted_bundle_cannot_be_compared(tmp_path: Path) -> None:
    """Also as the first of the two."""
    settings = Settings(data_dir=tmp_path / "var")
    publish_parts(settings, tmp_path, "b1")
    tear(settings, "b1")
    with pytest.raises(BundleCorrupt):
        difference(Registry(settings.registry_location), "b1", "b1")


def test_a_mean_is_one_line_with_its_interval_and_tables_stay_in_the_document() -> None:
    """What one bundle alone has is counted."""
    pairs: dict[str, tuple[object, object]] = {
        "ndcg.mean": (0.25, 0.5),
        "ndcg.low": (0.2, 0.4),
        "ndcg.high": (0.3, 0.6),
        "loss": (1, 2),
        "low": (3, 4),
        "gate.rules": ([{"name": "one"}], [{"name": "two"}]),
        "stable.mean": (None, 0.5),
        "stable.low": (None, 0.4),
    }
    assert shown_metrics(pairs) == {
        "ndcg": ("0.25 [0.2, 0.3]", "0.5 [0.4, 0.6]"),
        "loss": (1, 2),
        "low": (3, 4),
    }
    items = ItemChanges(1, 1, (), (), (), has_same_rows=True)
    text = difference_text(BundleDifference("a", "b", {}, {}, {}, pairs, {}, items, {}))
    assert "  ndcg: 0.25 [0.2, 0.3] -> 0.5 [0.4, 0.6]\n" in text
    assert "  2 more are of one bundle alone; see 'cluster bundle show'" in text
    assert "gate.rules" not in text
