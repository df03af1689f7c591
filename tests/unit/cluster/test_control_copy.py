"""A copy of the control store's rows: what operators made comes back, what passes is left out."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from cluster.keys.key_writer import KeyWriter
from cluster.rollouts.storing.control_writer import ControlWriter
from cluster.stores.control_copy import read_rows, write_rows
from recsys.errors import ConfigError, DataError
from recsys.keys import find_key, new_key
from recsys.stores.control.control import ControlReader, ReadinessReporter
from recsys.stores.control.key_tables import KeyReader
from recsys.traffic import TrafficPlan

NOW_MS = 1_760_000_000_000


def store(folder: Path, name: str) -> str:
    """The URL of an embedded control store."""
    return f"sqlite:///{folder / name}"


def test_plan_and_keys_come_back_and_who_lives_does_not(tmp_path: Path) -> None:
    """A caller's key opens the restored service too; a used store is refused."""
    first, second = store(tmp_path, "first"), store(tmp_path, "second")
    writer = ControlWriter(first)
    writer.set_required(("b1",), ())
    writer.set_plan(TrafficPlan.single("b1", 1, "s"), 0)
    made = new_key(["read"], NOW_MS, random.Random(5).randbytes, client="shop")
    KeyWriter(first).add(made.key, NOW_MS)
    ReadinessReporter(first).report("g1", "gateway", {"b1": ("ready", "")}, 1, 1)
    lines = read_rows(first)
    assert not [line for line in lines if json.loads(line)["table"] == "control_readiness"]
    assert write_rows(second, lines) == len(lines)

    assert ControlReader(second).view().plan == ControlReader(first).view().plan
    keys = {key.key_id: key for key in KeyReader(second).read()}
    assert find_key(made.token, keys, NOW_MS) == made.key
    with pytest.raises(ConfigError, match="expected an empty one"):
        write_rows(second, lines)


def test_a_row_of_an_unknown_table_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    """A later release's copy says so, and the store stays empty."""
    url = store(tmp_path, "new")
    with pytest.raises(DataError, match="of table 'later'"):
        write_rows(url, ['{"table": "later", "row": {}}'])
    assert ControlReader(url).view().plan is None
