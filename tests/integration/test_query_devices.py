"""The device of a held-out engagement is read from the impression it reacted to."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.example_lake import a_lake, an_engagement, an_imported, an_impression
from train_app.evaluation.breakdown.query_devices import query_devices
from train_app.evaluation.evaluation_protocols import hold_out
from train_app.examples.lake_examples import load_interactions

pytestmark = pytest.mark.integration


def test_reactions_have_the_device_of_their_impression(tmp_path: Path) -> None:
    """A phone, an impression whose context names no device, and an imported engagement."""
    settings = a_lake(
        tmp_path,
        engagements=[
            an_imported("u", "a", 1_000),
            an_engagement("u", "b", 2_000, request_id="r1"),
            an_engagement("u", "c", 3_000, request_id="r2"),
            an_imported("u", "d", 4_000),
        ],
        impressions=[
            an_impression("u", ["b"], 1_900, request_id="r1", context={"device": "phone"}),
            an_impression("u", ["c"], 2_900, request_id="r2", context={"surface": "home"}),
        ],
    )
    data = load_interactions(settings.lake_location, settings)
    held_out = hold_out("time", data, cutoff_ms=1_500, negative_kinds=(), seed=0)
    assert query_devices(held_out, settings) == ["phone", "", ""]
    unprompted = held_out.sample(1, seed=0)
    assert len(query_devices(unprompted, settings)) == 1


def test_imports_alone_have_no_devices(tmp_path: Path) -> None:
    """Without impressions nothing is looked for."""
    settings = a_lake(
        tmp_path, engagements=[an_imported("u", "a", 1_000), an_imported("u", "b", 2_000)]
    )
    data = load_interactions(settings.lake_location, settings)
    held_out = hold_out("time", data, cutoff_ms=1_500, negative_kinds=(), seed=0)
    assert query_devices(held_out, settings) == [""]
