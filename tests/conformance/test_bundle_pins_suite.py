"""Pins: who keeps which bundle, and why."""

from __future__ import annotations

from cluster.bundles.pins import Pin, Pins
from tests.control_backends import tables_in


def test_pins_are_kept_with_their_first_reason(control_url: str) -> None:
    """A store that was never written has none, and asking makes no file."""
    pins = Pins(control_url)
    assert pins.read() == []
    assert not pins.remove("b1")
    assert tables_in(control_url) == set()
    assert pins.add(Pin("b2", 2, "bob", ""))
    assert pins.add(Pin("b1", 1, "ann", "audit"))
    assert not pins.add(Pin("b1", 3, "bob", "mine"))
    assert pins.read() == [Pin("b1", 1, "ann", "audit"), Pin("b2", 2, "bob", "")]
    assert pins.remove("b1")
    assert not pins.remove("b1")
    assert [pin.bundle_id for pin in pins.read()] == ["b2"]
    pins.close()
