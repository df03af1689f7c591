"""Pins: who keeps which bundle, and why."""

from __future__ import annotations

from pathlib import Path

from cluster.bundles.pins import Pin, Pins
from recsys.settings import Settings


def test_pins_are_kept_with_their_first_reason(tmp_path: Path) -> None:
    """A store that was never written has none, and asking makes no file."""
    pins = Pins(Settings(data_dir=tmp_path).control_url)
    assert pins.read() == []
    assert not pins.remove("b1")
    assert list(tmp_path.iterdir()) == []
    assert pins.add(Pin("b2", 2, "bob", ""))
    assert pins.add(Pin("b1", 1, "ann", "audit"))
    assert not pins.add(Pin("b1", 3, "bob", "mine"))
    assert pins.read() == [Pin("b1", 1, "ann", "audit"), Pin("b2", 2, "bob", "")]
    assert pins.remove("b1")
    assert not pins.remove("b1")
    assert [pin.bundle_id for pin in pins.read()] == ["b2"]
    pins.close()
