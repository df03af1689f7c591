"""Forgetting a person whose rows an import refused: the quarantine names nobody afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.settings import Settings
from tests.lake_events import lake_rows
from train_app.importing.import_history import ImportOptions, run_import
from train_app.lake.lake_tables import Lake
from train_app.lake.upkeep.lake_forgetting import forget_in_lake
from train_app.lake.upkeep.lake_history import read_history

pytestmark = pytest.mark.integration

NOW_MS = 1_790_000_000_000
ROWS = (
    f"i1,zed-1,{NOW_MS},view",
    "i2,zed-1,never,view",
    "i3,zed-1,never,view,too,many",
    "i4,zed-12,never,view",
    f'i5,"zed-1",{NOW_MS},',
)


def test_rows_an_import_refused_go_with_their_person(tmp_path: Path) -> None:
    """Those whose column was read and those that were never split; nobody else's."""
    source = tmp_path / "history.csv"
    source.write_text("\n".join(["item_id,user_id,timestamp,kind", *ROWS]) + "\n")
    settings = Settings.model_validate({"data_dir": tmp_path})
    run_import(
        ImportOptions(source=source, format="csv"), settings, lambda stage, done, total: None
    )
    owners = lake_rows(tmp_path, "quarantine", "line, user_id")
    assert owners == [(3, "zed-1"), (4, None), (5, "zed-12"), (6, "zed-1")]
    lake = Lake(settings.lake_location)
    rows = {change.table: change.n_rows for change in read_history(lake) if change.by == "import"}
    assert rows == {"engagements": 1, "quarantine": 4}

    counts = forget_in_lake(lake, "zed-1", now_ms=NOW_MS)
    assert {name: n for name, n in counts.items() if n} == {"engagements": 1, "quarantine": 3}
    assert lake_rows(tmp_path, "quarantine", "raw") == [ROWS[3]]
