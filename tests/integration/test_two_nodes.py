"""Two Ray nodes on one machine: replicas on both, no port beyond the documented, nothing left."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import psutil
import pytest

from cluster.local.owned_processes import is_alive, owned_now, read_record
from cluster.local.run_files import RunFiles
from recsys.settings_files import load_settings
from tests.bundles_for_tests import publish_small, small_settings
from tests.loop_driver import Loop
from tests.open_ports import documented_ports, listeners


@pytest.fixture
def loop(tmp_path: Path) -> Generator[Loop]:
    """A service of small models on two nodes."""
    loop = Loop(tmp_path / "var", CLUSTER__NODES="2", CLUSTER__START_TIMEOUT_S="240")
    publish_small(small_settings(tmp_path / "var"), tmp_path / "staging")
    loop.run("up", "--wait")
    try:
        yield loop
    finally:
        loop.run("down")


def test_a_service_on_two_nodes_answers_and_leaves_nothing(loop: Loop) -> None:
    """Replicas are children of both raylets; `down` ends the second node too."""
    record = read_record(RunFiles(loop.data_dir / "run").record)
    assert record is not None
    owned = owned_now(record)
    processes = [psutil.Process(process.pid) for process in owned]
    raylets = [process for process in processes if process.name() == "raylet"]
    assert len(raylets) == 2
    for raylet in raylets:
        titles = [" ".join(child.cmdline()) for child in raylet.children(recursive=True)]
        assert [title for title in titles if title.lower().startswith("ray::serve")], titles
    rows = documented_ports(load_settings(environ=loop.environment))
    found = listeners({process.pid for process in processes})
    assert [one for one in found if not any(row.covers(one) for row in rows)] == []
    answer = loop.recommend("u1", 5)
    assert (len(answer["items"]), answer["degraded"]) == (5, [])
    loop.run("down")
    assert not [process for process in owned if is_alive(process)]
