"""A lake of a release that had no table of shadows, followed by this one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from recsys.events import encode_event
from tests.lake_events import (
    RecordLog,
    an_archiver,
    an_engagement,
    lake_rows,
    some_events,
    turn_all,
)
from train_app.lake.archiving.filled_table import stored_positions
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_check import check_lake

pytestmark = pytest.mark.integration


def test_a_lake_without_a_newer_table_goes_on_where_it_is(tmp_path: Path) -> None:
    """Nothing is read again, and what its log has dropped since is not called lost."""
    log = RecordLog(1)
    for event in some_events(4):
        log.put(0, event.event_id, encode_event(event))
    turn_all(an_archiver(log, tmp_path), [0])
    shutil.rmtree(tmp_path / "lake" / "shadows")
    log.lose(0, before=10)
    log.put(0, "new", encode_event(an_engagement("new")))
    archiver = an_archiver(log, tmp_path)
    assert turn_all(archiver, [0]) == 1
    lake = Lake(str(tmp_path / "lake"))
    assert (archiver.n_missed, stored_positions(lake, [0])) == (0, {0: 13})
    assert lake_rows(tmp_path, "engagements", "event_id") == ["e0", "e1", "e2", "e3", "new"]
    report = check_lake(lake, log)
    assert (report.problems, report.n_lost) == ([], 0)
