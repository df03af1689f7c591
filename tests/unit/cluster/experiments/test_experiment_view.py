"""Experiments as an operator reads them."""

from __future__ import annotations

from dataclasses import replace

from cluster.experiments.experiment_record import Declaration, ExperimentRecord
from cluster.experiments.experiment_sides import bundle_sides, ordering_sides
from cluster.experiments.experiment_view import age_text, status_text
from recsys.experiment_plan import Layer

MINUTE_MS = 60_000
RECORD = ExperimentRecord(
    "one-1",
    "one",
    Layer.ORDERING,
    ordering_sides({"pool": 9}),
    0.5,
    "ann",
    0,
    Declaration(label_window_s=90),
).running(0)


def test_an_ordering_says_what_its_sides_show_and_who_counts_its_users() -> None:
    """Without counts, which the evidence has of bundles alone."""
    text = status_text(RECORD, {}, 0)
    assert "control     50.0%  as it is" in text
    assert "treatment   50.0%  pool=9" in text
    assert "label window 90 s" in text
    assert "the report counts its users" in text


def test_a_side_of_bundles_says_what_it_came_to() -> None:
    """Users, slates and what was engaged with."""
    record = replace(RECORD, layer=Layer.BUNDLE, arms=bundle_sides("b1", "b2"))
    sums = {"users": 1_000, "slates": 2_000, "shown": 9_000, "engaged_items": 300}
    text = status_text(record, {"treatment": sums}, 0)
    assert "b2  1,000 users, 2,000 slates, 300 engaged of 9,000 shown" in text
    assert "the report counts" not in text


def test_an_age_is_told_in_the_unit_that_fits_it() -> None:
    """Minutes, hours, days; of a stopped one the day of its end."""
    ages = [age_text(RECORD, n * MINUTE_MS) for n in (5, 90, 60 * 72)]
    assert ages == ["for 5 min", "for 1.5 h", "for 3.0 d"]
    assert age_text(RECORD.stopped(MINUTE_MS, "over"), 0) == "1970-01-01"
