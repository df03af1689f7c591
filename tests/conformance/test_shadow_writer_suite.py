"""Shadows in the control store: compare-and-set, what gateways then follow, and the history."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import update

from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.shadows.shadow_record import ShadowRecord, ShadowState
from cluster.shadows.shadow_writer import ShadowWriter
from recsys.errors import ConfigError, RolloutConflict, StoreError
from recsys.shadow_plan import ShadowPlan
from recsys.stores.control import control_tables as tables
from recsys.stores.control.control import ControlReader
from tests.control_backends import tables_in


def a_record(shadow_id: str = "s1", bundle_id: str = "b2", **changes: Any) -> ShadowRecord:
    """A shadow that an operator just asked for."""
    record = ShadowRecord(shadow_id, bundle_id, 0.5, ShadowState.PREPARING, "ann", 1_000)
    return replace(record, **changes)


def test_a_store_that_was_never_written_has_no_shadows(control_url: str) -> None:
    """Looking makes no file."""
    writer = ShadowWriter(control_url)
    assert (writer.all(), writer.open(), writer.find("s1")) == ([], [], None)
    assert writer.ensure_closed("s1", "ann", 1, "over") is None
    assert tables_in(control_url) == set()


def test_gateways_see_the_bundle_at_once_and_copy_once_it_runs(control_url: str) -> None:
    """And neither once it is closed; every change is a new revision of the store."""
    writer, reader = ShadowWriter(control_url), ControlReader(control_url)
    stored = writer.start(a_record(), "ann", 1_000)
    prepared = reader.view()
    assert (prepared.beside, prepared.shadows) == (("b2",), ())
    stored = writer.set_running("s1", stored.revision, "ann", 2_000)
    running = reader.view()
    assert (running.beside, running.shadows) == (("b2",), (ShadowPlan("s1", "b2", 0.5),))
    stored = writer.close("s1", stored.revision, "bob", 3_000, "seen enough")
    closed = reader.view()
    assert (closed.beside, closed.shadows) == ((), ())
    assert prepared.revision < running.revision < closed.revision
    assert (stored.record.stopped_ms, stored.record.why) == (3_000, "seen enough")
    assert [one.record for one in writer.all()] == [stored.record]


def test_the_history_says_who_did_what_and_why(control_url: str) -> None:
    """A change that is there already adds no line."""
    writer = ShadowWriter(control_url)
    writer.start(a_record(), "ann", 1_000)
    for _ in range(2):
        writer.set_running("s1", 1, "ann", 2_000)
    for _ in range(2):
        writer.close("s1", 2, "bob", 3_000, "seen enough")
    told = [
        (entry.at_ms, entry.who, entry.verb, entry.what, entry.why)
        for entry in ControlWriter(control_url).history()
    ]
    share = "share 0.5 of the requests"
    assert told == [
        (1_000, "ann", "shadow", "s1: b2 is preparing", share),
        (2_000, "ann", "shadow", "s1: b2 is running", share),
        (3_000, "bob", "shadow", "s1: b2 is stopped", "seen enough"),
    ]


def test_a_change_from_what_is_no_longer_there_is_refused(control_url: str) -> None:
    """Whoever comes second hears what it is now."""
    writer = ShadowWriter(control_url)
    writer.start(a_record(), "ann", 1_000)
    with pytest.raises(RolloutConflict, match="it is preparing"):
        writer.set_running("s1", 7, "ann", 2_000)
    writer.set_running("s1", 1, "ann", 2_000)
    with pytest.raises(RolloutConflict, match="it is running"):
        writer.close("s1", 1, "bob", 3_000, "late")
    writer.close("s1", 2, "bob", 3_000, "in time")
    with pytest.raises(RolloutConflict, match="it is stopped"):
        writer.set_running("s1", 3, "ann", 4_000)
    with pytest.raises(RolloutConflict, match="there is no shadow s9"):
        writer.close("s9", 1, "ann", 4_000, "none")


def test_a_bundle_has_one_shadow_of_an_operator_at_a_time(control_url: str) -> None:
    """Another bundle, and a rollout's shadow of the same one, stand beside it."""
    writer = ShadowWriter(control_url)
    writer.start(a_record(), "ann", 1_000)
    with pytest.raises(RolloutConflict, match="shadow s1 of b2 is preparing"):
        writer.start(a_record("s2"), "bob", 1_001)
    with pytest.raises(RolloutConflict, match="expected a new id"):
        writer.start(a_record("s1", "b3"), "bob", 1_001)
    writer.start(a_record("s3", "b3", started_ms=1_002), "bob", 1_002)
    writer.ensure_running(a_record("r1", rollout_id="r1", started_ms=1_003), "controller", 1_003)
    assert [one.record.shadow_id for one in writer.open()] == ["s1", "s3", "r1"]
    writer.close("s1", 1, "ann", 2_000, "over")
    assert writer.start(a_record("s4"), "bob", 2_001).revision == 1


def test_a_rollout_writes_its_shadow_as_often_as_it_likes(control_url: str) -> None:
    """Once closed it stays closed, whatever a late turn asks for."""
    writer = ShadowWriter(control_url)
    record = a_record("r1", rollout_id="r1")
    first = writer.ensure_running(record, "controller", 1_000)
    assert (first.record.state, first.revision) == (ShadowState.RUNNING, 1)
    assert writer.ensure_running(record, "another", 2_000) == first
    with pytest.raises(RolloutConflict, match="is of b2, expected b9"):
        writer.ensure_running(a_record("r1", "b9", rollout_id="r1"), "controller", 2_000)
    closed = writer.ensure_closed("r1", "controller", 3_000, "enough was compared")
    assert writer.ensure_closed("r1", "another", 4_000, "again") == closed
    assert writer.ensure_running(record, "late", 5_000) == closed
    assert len(ControlWriter(control_url).history()) == 2


@pytest.mark.parametrize(
    "moves", [["close", "run"], ["run", "close", "run", "close"], ["run", "run", "close", "run"]]
)
def test_a_closed_shadow_is_closed_for_ever(control_url: str, moves: Sequence[str]) -> None:
    """In whatever order the moves come; its revision never falls."""
    writer, record = ShadowWriter(control_url), a_record("r1", rollout_id="r1")
    writer.start(record, "ann", 1_000)
    revision, was_closed = 1, False
    for now_ms, move in enumerate(moves, start=2_000):
        if move == "close":
            writer.ensure_closed("r1", "ann", now_ms, "over")
        else:
            writer.ensure_running(record, "ann", now_ms)
        found = writer.find("r1")
        assert found is not None
        assert found.revision >= revision
        assert found.record.is_closed or not was_closed
        revision, was_closed = found.revision, found.record.is_closed
    assert was_closed


def test_a_row_that_cannot_be_read_is_named(control_url: str) -> None:
    """With what to do; gateways skip it without an error."""
    writer = ShadowWriter(control_url)
    writer.start(a_record(), "ann", 1_000)
    engine = tables.open_engine(control_url, writes=True)
    with engine.begin() as connection:
        connection.execute(update(tables.shadows).values(document="{"))
    engine.dispose()
    with pytest.raises(StoreError, match=r"shadow 's1' .* cannot be read"):
        writer.all()


@pytest.mark.parametrize("share", [0.0, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    """Before anything is written."""
    with pytest.raises(ConfigError, match="share above 0"):
        a_record(share=share)
