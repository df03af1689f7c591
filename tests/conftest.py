"""What holds for every test: how Hypothesis draws, and in which lane a test runs.

Hypothesis draws the same examples on every run of CI, and new ones on a developer's machine.
"""

import os

import pytest
from hypothesis import settings
from xdist.remote import Producer

from tests.lanes import RAY_LANE, Lanes, lane_of, turn_of

# A lane has one core, and threads that wait for each other take several times as long where the
# cores are shared; read by Torch when it is imported, here and in the processes of the tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Lanes set a width of their own for what is printed.
os.environ["COLUMNS"] = "120"

settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Lanes:
    """Under `-n` the tests run in lanes, whatever `--dist` says."""
    return Lanes(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever starts Ray is marked `ray`; under `-n` long tests begin first."""
    for item in items:
        if lane_of(item.nodeid) == RAY_LANE:
            item.add_marker("ray")
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: turn_of(item.nodeid))
