"""The points of the overload's pictures, and that the pictures show them."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bench.open_loop import Phase, Seen
from bench.overload_curves import (
    LADDER,
    goodput_picture,
    ladder_phases,
    latency_picture,
    steps_of,
)


def seen_at(rates: list[tuple[float, float, int]]) -> Seen:
    """Six seconds of each: requests a second, latency in ms, of every second one the status."""
    due, latency, status = [], [], []
    for number, (rate, latency_ms, second) in enumerate(rates):
        for n in range(int(rate * 6)):
            due.append(10.0 + 6.0 * number + n / rate)
            latency.append(latency_ms)
            status.append(second if n % 2 else 200)
    return Seen(np.array(due), np.array(latency), np.array(status, np.int64), 0)


def test_each_step_has_its_own_figures() -> None:
    """Half of the second step is refused."""
    phases = [Phase(100.0, 6.0), Phase(200.0, 6.0)]
    calm, full = steps_of(seen_at([(100, 20, 200), (200, 40, 503)]), 10.0, phases)
    assert calm.offered_per_s == pytest.approx(100, rel=0.02)
    assert calm.goodput_per_s == pytest.approx(100, rel=0.02)
    assert (calm.p50_ms, calm.p99_ms, calm.refusal_p99_ms) == (20.0, 20.0, 0.0)
    assert full.offered_per_s == pytest.approx(200, rel=0.02)
    assert full.goodput_per_s == pytest.approx(100, rel=0.02)
    assert full.refusal_p99_ms == 40.0


def test_a_step_without_answers_has_no_goodput() -> None:
    """A service that is gone draws a line on the ground, not an error."""
    (gone,) = steps_of(seen_at([]), 10.0, [Phase(5.0, 6.0)])
    assert (gone.goodput_per_s, gone.p99_ms) == (0.0, 0.0)


def test_the_pictures_are_whole_documents_with_a_curve_for_each_figure() -> None:
    """Refusals are drawn only where there were any."""
    phases = ladder_phases(100.0)
    assert [phase.requests_per_s for phase in phases] == [100.0 * times for times in LADDER]
    calm, full = steps_of(seen_at([(100, 20, 200), (200, 40, 503)]), 10.0, phases[:2])
    assert "answered in time" in goodput_picture([calm, full], 100.0)
    assert "p99 of refusals" in latency_picture([calm, full])
    assert "p99 of refusals" not in latency_picture([calm])
    for picture in (goodput_picture([calm], 100.0), latency_picture([calm, full])):
        assert ET.fromstring(picture).tag.endswith("svg")
