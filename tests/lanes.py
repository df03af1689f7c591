"""Two lanes of tests under `pytest -n 2`: what starts Ray, one by one, and beside it the rest.

A Ray takes ports and folders of the whole machine, so all files that start one are one unit of
work; every other file is a unit of its own, so that its servers are started once.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

ROOT = Path(__file__).parents[1]
RAY_LANE = "ray"
_SIGNS = re.compile(
    r"^\s*(import ray\b|from ray\b|from tests\.graph_server import)"
    r'|"up", "|pytest\.mark\.ray\b',
    re.MULTILINE,
)
"""Of a file that starts Ray; one that does it in a way of its own carries the mark `ray`."""
_TIERS = ("e2e", "integration", "conformance")
"""Folders of tests that take long, the longest first; short ones fill the end."""


@cache
def starts_ray(file: str) -> bool:
    """Whether a test file, named from the repository's root, starts Ray; unit tests never do."""
    path = ROOT / file
    if file.startswith("tests/unit/") or not path.is_file():
        return False
    return _SIGNS.search(path.read_text(encoding="utf-8")) is not None


def lane_of(node_id: str) -> str:
    """The unit of work that a test belongs to."""
    file = node_id.partition("::")[0]
    return RAY_LANE if starts_ray(file) else file


def turn_of(node_id: str) -> int:
    """Where a test stands in the order of work; the lane of Ray is the longest and goes first."""
    if lane_of(node_id) == RAY_LANE:
        return 0
    tier = node_id.split("/")[1]
    return 1 + (_TIERS.index(tier) if tier in _TIERS else len(_TIERS))


class Lanes(LoadScopeScheduling):
    """Hands out whole lanes and whole files, in the order of `turn_of`."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        config.option.loadscopereorder = False
        super().__init__(config, log)

    def _split_scope(self, nodeid: str) -> str:
        return lane_of(nodeid)
