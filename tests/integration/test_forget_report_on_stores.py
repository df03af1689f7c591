"""What a forgetting says of real stores: what was there, and what was not."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.control.membership import ARCHIVER
from recsys.stores.log.event_log import SqliteEventLog
from train_app.following.worker_replica import open_follower
from train_app.forgetting import forget

pytestmark = pytest.mark.integration

NOW_MS = 1_790_000_000_000


def test_a_mistyped_id_was_unknown_and_the_right_one_had_rows(tmp_path: Path) -> None:
    """Example sets go with the first, and are named only where there were some."""
    settings = Settings.model_validate(
        {"data_dir": tmp_path / "var", "lake": {"commit_every_s": 0.05}}
    )
    partitions = range(settings.events.n_partitions)
    example = settings.data_dir / "examples" / "part-0.parquet"
    example.parent.mkdir(parents=True)
    example.write_bytes(b"an example")
    clicks = [
        Engagement(
            event_id=f"e{n}",
            kind="click",
            user_id="ann",
            item_id=f"i{n}",
            timestamp_ms=NOW_MS + n,
            received_at_ms=NOW_MS + n,
            origin="api",
        )
        for n in range(2)
    ]
    with closing(SqliteEventLog(settings.log_path, settings.events.n_partitions)) as log:
        log.append(clicks)
        with closing(open_follower(ARCHIVER, log, settings)) as archiver:
            while archiver.lag(partitions):
                archiver.run_once(partitions)

    mistyped = forget(settings, "anne")
    assert mistyped.text().startswith("nothing was known of this user; check the id")
    assert not any("older versions of the lake" in line for line in mistyped.remaining)
    assert mistyped.removed == [
        f"example sets under {example.parent} were removed; make them again"
    ]
    assert not example.parent.exists()

    known = forget(settings, "ann")
    assert known.text().startswith("forgotten: user-")
    assert known.n_log_records == 2
    assert known.lake_rows["engagements"] == 2
    assert "lake: 2 rows removed (engagements 2)" in known.text()
    assert any("older versions of the lake" in line for line in known.remaining)
    assert known.removed == []
