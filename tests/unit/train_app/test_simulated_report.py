"""The report of learning in simulated worlds: means over worlds, and rows paired by world."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from bench.simulated_drift import DriftResult
from bench.simulated_exposure import ARMS, Exposure
from bench.simulated_learning import (
    Row,
    document,
    drift_rows,
    exposure_rows,
    mean_over_worlds,
    position_rows,
    report,
)
from bench.simulated_positions import PositionResult


def rows() -> list[Row]:
    """Rows of two worlds."""
    positions = [PositionResult(0.2, 0.4, 0.5 + at / 10, {2: (0.6, 0.5)}) for at in range(2)]
    drifts = [DriftResult(0.1, 0.3, 0.2, 0.4)] * 2
    shown = {arm: Exposure(share / 100, share / 10) for share, arm in enumerate(ARMS)}
    return [*position_rows(positions), *drift_rows(drifts), *exposure_rows([shown] * 2)]


def test_the_interval_is_students_over_the_worlds() -> None:
    """Of 1, 2 and 3: 2 plus and minus 4.30 standard errors."""
    found = mean_over_worlds([1.0, 2.0, 3.0])
    assert found.value == 2.0
    assert found.high - 2.0 == pytest.approx(4.30 / 3**0.5)
    assert found.low == pytest.approx(4.0 - found.high)


def test_differences_are_paired_by_world() -> None:
    """Each row's second side against its first."""
    first = rows()[0]
    assert first.values == ((0.4, 0.5), (0.4, 0.6))
    assert first.difference.value == pytest.approx(0.15)
    by_measure = {(row.measure, row.with_it): row.difference.value for row in rows()}
    assert by_measure["examination of position 2", "as learned"] == pytest.approx(0.1)
    assert by_measure["true NDCG@10, all items", "warm start"] == pytest.approx(0.2)
    assert by_measure["share of places", "both"] == pytest.approx(0.03)


def test_every_row_reaches_the_table_and_the_document() -> None:
    """For a person and for a program."""
    found = rows()
    console = Console(width=200, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(report(found, 2))
    text = capture.get()
    assert all(row.measure in text and row.difference.text() in text for row in found)
    whole = json.loads(json.dumps(document(found, [0, 1])))
    assert [row["difference"]["value"] for row in whole["rows"]] == [
        row.difference.value for row in found
    ]
