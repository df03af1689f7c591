"""Which part of a bundle fits another, and what is refused with which words."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.bundles import composition
from recsys.bundles.composition import (
    COMPOSED,
    Origins,
    Part,
    fitting,
    has_same_part,
    lineage_of,
    misfits,
    origins_of,
    plan_composition,
    read_ordering,
)
from recsys.bundles.registry import Registry
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound, ConfigError, SpaceMismatch
from recsys.settings import Settings
from recsys.stages import SCORER_FILES
from recsys.types import Item
from tests.parts_for_tests import publish_parts, tear


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """An empty registry."""
    return Settings(data_dir=tmp_path / "var")


def test_a_scorer_is_the_files_that_the_scorer_stage_loads() -> None:
    """The list is written twice, because an operator's process must not import the stages."""
    assert composition.SCORER_FILES == SCORER_FILES


def test_a_scorer_of_the_same_towers_fits(settings: Settings, tmp_path: Path) -> None:
    """And the plan names the origin of every part."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", scorer="better", ordering={"diversity": 0.5})
    registry = Registry(settings.registry_location)
    plan = plan_composition(registry, "b1", "b2", None)
    assert plan.origins == Origins("b1", "b2", "b1")
    assert plan.parents == ("b1", "b2")
    assert plan.existing is None
    both = plan_composition(registry, "b1", "b2", "b2")
    assert both.origins == Origins("b1", "b2", "b2")


@pytest.mark.parametrize(
    ("change", "what", "error"),
    [
        ({"space": "other"}, "embedding space", SpaceMismatch),
        ({"schema_hash": "9f00"}, "feature schema: 4e1c here, 9f00 there", BundleError),
        ({"actions": ("like", "view")}, "actions: view, like here, like, view there", BundleError),
        ({"n_heads": 4}, "towers.json", BundleError),
        ({"items": (Item("i1"), Item("i0"))}, "items by row", BundleError),
        ({"items": (Item("i0"),)}, "number of items: 2 here, 1 there", BundleError),
    ],
)
def test_a_scorer_that_does_not_fit_is_refused_by_name(
    settings: Settings,
    tmp_path: Path,
    change: dict[str, object],
    what: str,
    error: type[BundleError],
) -> None:
    """With what differs, and which scorer would fit."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", scorer="of b2", **change)  # type: ignore[arg-type]
    publish_parts(settings, tmp_path, "b3", scorer="of b3")
    with pytest.raises(error) as caught:
        plan_composition(Registry(settings.registry_location), "b1", "b2", None)
    assert type(caught.value) is error
    assert what in str(caught.value)
    assert "the scorers of b3 fit" in str(caught.value)


def test_without_a_fitting_scorer_the_whole_bundle_is_offered(
    settings: Settings, tmp_path: Path
) -> None:
    """Nothing of the registry was trained on these towers."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", space="other", scorer="other")
    with pytest.raises(SpaceMismatch, match="cluster canary start"):
        plan_composition(Registry(settings.registry_location), "b1", "b2", None)


def test_what_only_looks_different_fits(settings: Settings, tmp_path: Path) -> None:
    """Titles and the layout of a file change no row and no tower."""
    one = publish_parts(settings, tmp_path, "b1")
    other = publish_parts(
        settings, tmp_path, "b2", scorer="other", items=(Item("i0", "Zero"), Item("i1", "One"))
    )
    assert one.files["items.parquet"] != other.files["items.parquet"]
    registry = Registry(settings.registry_location)
    assert misfits(registry, one, other, Part.SCORER) == ()
    assert fitting(registry, one, registry.list_bundles()) == ["b2"]


def test_an_ordering_policy_fits_another_space(settings: Settings, tmp_path: Path) -> None:
    """It reads no vector of the space it came from; defaults are spelt out before comparing."""
    one = publish_parts(settings, tmp_path, "b1", ordering={"diversity": 0.15})
    publish_parts(settings, tmp_path, "b2", space="other", ordering={"diversity": 0.5})
    same = publish_parts(settings, tmp_path, "b3", space="third")
    registry = Registry(settings.registry_location)
    assert plan_composition(registry, "b1", None, "b2").origins == Origins("b1", "b1", "b2")
    assert has_same_part(registry, one, same, Part.ORDERING)


def test_nothing_to_do_is_refused(settings: Settings, tmp_path: Path) -> None:
    """No part named, the bundle itself, or a part that is already there."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", ordering={"pool": 9})
    registry = Registry(settings.registry_location)
    for scorer, ordering in ((None, None), ("b1", None), ("b1", "b1"), ("b2", None)):
        with pytest.raises(ConfigError):
            plan_composition(registry, "b1", scorer, ordering)


def test_a_missing_or_broken_bundle_is_no_part(settings: Settings, tmp_path: Path) -> None:
    """Unknown, half-deleted, with settings of another time, or with a changed file."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", ordering={"never_heard_of": 1})
    publish_parts(settings, tmp_path, "b3", scorer="other")
    publish_parts(settings, tmp_path, "b4", ordering={"pool": 9})
    registry = Registry(settings.registry_location)
    with pytest.raises(BundleNotFound):
        plan_composition(registry, "b1", "b9", None)
    with pytest.raises(BundleCorrupt, match="no usable ordering"):
        plan_composition(registry, "b1", None, "b2")
    tear(settings, "b3")
    with pytest.raises(BundleCorrupt, match=r"manifest.json of bundle b3 is missing"):
        plan_composition(registry, "b1", "b3", None)
    Path(settings.registry_location, "b4", "settings.json").write_text("{}")
    with pytest.raises(BundleCorrupt, match=r"settings.json of bundle b4 was changed"):
        plan_composition(registry, "b1", None, "b4")


def test_a_composition_that_is_there_is_found_again(settings: Settings, tmp_path: Path) -> None:
    """Also where it is the plain bundle that the parts once came from."""
    origins = {"retrieval": "b1", "scorer": "b2", "ordering": "b1"}
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", scorer="other")
    publish_parts(settings, tmp_path, "b3", scorer="other", lineage={COMPOSED: origins})
    registry = Registry(settings.registry_location)
    assert plan_composition(registry, "b1", "b2", None).existing == "b3"
    back = plan_composition(registry, "b3", "b1", None)
    assert back.origins == Origins("b1", "b1", "b1")
    assert back.existing == "b1"


def test_an_unreadable_origin_names_itself_and_stops_nobody_else(
    settings: Settings, tmp_path: Path
) -> None:
    """A bundle composed by a later release may say it otherwise."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", scorer="other")
    odd = publish_parts(settings, tmp_path, "b3", lineage={COMPOSED: {"towers": "b1"}})
    with pytest.raises(BundleCorrupt, match="compose it again"):
        origins_of(odd)
    plan = plan_composition(Registry(settings.registry_location), "b1", "b2", None)
    assert plan.existing is None


@pytest.mark.parametrize(("theirs", "expected"), [(7, 7), (3, 5), (None, None)])
def test_a_composed_bundle_has_seen_what_its_parts_have_seen(
    settings: Settings, tmp_path: Path, theirs: int | None, expected: int | None
) -> None:
    """So that an evaluation on data the scorer learned from is refused."""
    seen = {} if theirs is None else {"train_until_ms": theirs}
    publish_parts(settings, tmp_path, "b1", lineage={"train_until_ms": 5, "lake_version": 3})
    publish_parts(settings, tmp_path, "b2", scorer="other", lineage=seen)
    plan = plan_composition(Registry(settings.registry_location), "b1", "b2", None)
    lineage = lineage_of(plan, "abc")
    assert lineage.get("train_until_ms") == expected
    assert lineage["lake_version"] == 3
    assert lineage["parts"] == {"scorer": seen}
    assert lineage[COMPOSED] == {"retrieval": "b1", "scorer": "b2", "ordering": "b1"}


def test_the_policy_of_a_bundle_is_read_from_the_bundle(settings: Settings, tmp_path: Path) -> None:
    """And not from the present settings."""
    manifest = publish_parts(settings, tmp_path, "b1", ordering={"exploration": 0.25})
    assert read_ordering(Registry(settings.registry_location), manifest).exploration == 0.25
