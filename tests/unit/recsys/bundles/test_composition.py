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
    scorer_files,
)
from recsys.bundles.registry import Registry
from recsys.bundles.scorer_space import SCORER_SPACE_FILES
from recsys.errors import BundleCorrupt, BundleError, BundleNotFound, ConfigError
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
    ("change", "what"),
    [
        ({"schema_hash": "9f00"}, "feature schema: 4e1c here, 9f00 there"),
        ({"actions": ("like", "view")}, "actions: view, like here, like, view there"),
        ({"items": (Item("i0"),)}, "catalogue: 2 items here, 1 of them known there"),
    ],
)
def test_a_scorer_that_does_not_fit_is_refused_by_name(
    settings: Settings,
    tmp_path: Path,
    change: dict[str, object],
    what: str,
) -> None:
    """With what differs, and which scorer would fit."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", scorer="of b2", **change)  # type: ignore[arg-type]
    publish_parts(settings, tmp_path, "b3", scorer="of b3")
    with pytest.raises(BundleError) as caught:
        plan_composition(Registry(settings.registry_location), "b1", "b2", None)
    assert what in str(caught.value)
    assert str(caught.value).endswith("scorers that fit: b3")


MANY = tuple(Item(f"i{n}") for n in range(10))


@pytest.mark.parametrize(
    ("change", "n_estimated"),
    [
        ({"space": "other"}, 0),
        ({"n_heads": 4}, 0),
        ({"items": MANY[::-1]}, 0),
        ({"space": "other", "items": (*MANY[:8], Item("another"))}, 2),
    ],
)
def test_a_scorer_of_another_training_fits_with_its_own_towers(
    settings: Settings, tmp_path: Path, change: dict[str, object], n_estimated: int
) -> None:
    """Other towers, towers of another shape, other rows, and items it does not know."""
    publish_parts(settings, tmp_path, "b1", items=MANY)
    publish_parts(settings, tmp_path, "b2", scorer="b2", **{"items": MANY, **change})  # type: ignore[arg-type]
    plan = plan_composition(Registry(settings.registry_location), "b1", "b2", None)
    assert plan.carries_space
    assert plan.n_estimated == n_estimated
    assert plan.origins == Origins("b1", "b2", "b1")


def test_a_scorer_with_towers_is_taken_onward_from_where_it_was_trained(
    settings: Settings, tmp_path: Path
) -> None:
    """A composition has its vectors for its own items alone; back home it needs no towers."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", space="other", scorer="other")
    publish_parts(settings, tmp_path, "b3", space="third", scorer="third")
    origins = {"retrieval": "b1", "scorer": "b2", "ordering": "b1"}
    made = publish_parts(
        settings, tmp_path, "b4", scorer="other", lineage={COMPOSED: origins}, carried="other"
    )
    registry = Registry(settings.registry_location)
    onward = plan_composition(registry, "b3", "b4", None)
    assert (onward.scorer.bundle_id, onward.carries_space) == ("b2", True)
    assert onward.origins == Origins("b3", "b2", "b3")
    home = plan_composition(registry, "b4", "b1", None)
    assert (home.carries_space, home.existing) == (False, "b1")
    with pytest.raises(ConfigError, match="has already"):
        plan_composition(registry, "b4", "b2", None)
    assert scorer_files(made) == set(SCORER_SPACE_FILES)
    tear(settings, "b2")
    with pytest.raises(BundleError, match="b2"):
        plan_composition(registry, "b3", "b4", None)


def test_a_scorer_whose_training_is_gone_says_so(settings: Settings, tmp_path: Path) -> None:
    """It cannot be taken onward, and the composition that has it still can be rolled out."""
    publish_parts(settings, tmp_path, "b3", space="third", scorer="third")
    origins = {"retrieval": "b1", "scorer": "b2", "ordering": "b1"}
    publish_parts(settings, tmp_path, "b4", lineage={COMPOSED: origins}, carried="other")
    registry = Registry(settings.registry_location)
    with pytest.raises(BundleError, match=r"trained with b2, .* out b4 whole"):
        plan_composition(registry, "b3", "b4", None)


def test_without_a_fitting_scorer_the_whole_bundle_is_offered(
    settings: Settings, tmp_path: Path
) -> None:
    """Nothing of the registry reads the same histories."""
    publish_parts(settings, tmp_path, "b1")
    publish_parts(settings, tmp_path, "b2", scorer="other", schema_hash="9f00")
    with pytest.raises(BundleError, match="cluster canary start"):
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
    assert list(fitting(registry, one, registry.list_bundles())) == ["b2"]
    assert not plan_composition(registry, "b1", "b2", None).carries_space


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
