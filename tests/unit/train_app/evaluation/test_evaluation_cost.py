"""What work cost, how a table is written, and what a method's row holds."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.types import RowArray
from train_app.evaluation.breakdown.cost_meter import CostMeter, peak_mb
from train_app.evaluation.breakdown.cost_section import TimedRanker
from train_app.evaluation.breakdown.report_section import Section, number_text
from train_app.evaluation.evaluation_protocols import HeldOut, hold_out
from train_app.evaluation.metrics import Interval
from train_app.examples.interactions import interactions_from_columns


def test_a_meter_sees_time_and_memory_of_its_block_and_of_those_inside() -> None:
    """40 MB held in an inner block are in the peak of both, and not in the next one's."""
    with CostMeter() as outer:
        with CostMeter() as inner:
            held = np.ones(40_000_000 // 8)
            assert held.sum() > 0
        del held
        with CostMeter() as after:
            pass
    # Other threads of this process may take or give back some pages meanwhile.
    assert inner.cost.peak_mb > after.cost.peak_mb - 20
    assert outer.cost.peak_mb >= inner.cost.peak_mb
    assert outer.cost.wall_s >= inner.cost.wall_s > 0
    assert outer.cost.cpu_s >= inner.cost.cpu_s >= 0
    assert set(outer.cost.as_dict()) == {"cpu_s", "wall_s", "peak_mb"}
    assert peak_mb() > 10


def test_a_timed_ranker_tells_milliseconds_per_query() -> None:
    """Two seconds by its clock for four queries."""
    data = interactions_from_columns(["u"] * 5, list("abcde"), ["view"] * 5, range(5))
    held_out = hold_out("time", data, cutoff_ms=1, negative_kinds=(), seed=0)

    def ranker(queries: HeldOut) -> dict[str, RowArray]:
        return {"some": np.zeros((len(queries), 1), np.int32)}

    clock = iter([0.0, 2.0])
    timed = TimedRanker(ranker, now_s=lambda: next(clock))
    assert timed.ms_per_request == 0.0
    assert timed(held_out)["some"].shape == (4, 1)
    assert timed.ms_per_request == pytest.approx(500.0)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.12345, ".123"),
        (0.01234, ".0123"),
        (-0.5, "-.500"),
        (1.5, "1.500"),
        (12.34, "12.3"),
        (12345.6, "12,346"),
        (10.0, "10.0"),
        (float("nan"), "-"),
    ],
)
def test_numbers_have_as_many_decimals_as_say_something(value: float, text: str) -> None:
    """About three or four figures."""
    assert number_text(value) == text


def test_a_section_is_text_for_a_person_and_objects_for_a_program() -> None:
    """An interval stands below its estimate; what is not finite is null."""
    rows = (("page", 3, Interval(0.5, 0.4, 0.6), None), ("other", 4, float("nan"), "x"))
    section = Section("some", "a title", ("method", "n", "m", "more"), rows, ("a note",))
    assert section.as_json() == [
        {"method": "page", "n": 3, "m": {"mean": 0.5, "low": 0.4, "high": 0.6}, "more": None},
        {"method": "other", "n": 4, "m": None, "more": "x"},
    ]
    text = section.text()
    assert all(words in text for words in ("a title", "page", ".500", ".400 .600", "a note"))
