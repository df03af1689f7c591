"""Every test that starts Ray is in the lane of Ray, and nothing else is."""

from __future__ import annotations

import re

from tests.lanes import RAY_LANE, ROOT, lane_of, starts_ray, turn_of

EVIDENCE = re.compile(r'ray\.init\(|serve\.run\(|"up", "--wait"|N_WORKERS\b|\bserving\(settings')


def files_of(tier: str) -> list[str]:
    """The test files of a folder, named from the root."""
    found = (ROOT / "tests" / tier).rglob("test_*.py")
    return sorted(str(path.relative_to(ROOT)) for path in found)


def test_who_starts_ray_by_whatever_means_is_in_its_lane() -> None:
    """A Ray Serve of its own, a command that starts one, or a training with workers."""
    found = [name for tier in ("e2e", "integration", "conformance") for name in files_of(tier)]
    assert len(found) > 30
    suspects = [name for name in found if EVIDENCE.search((ROOT / name).read_text())]
    assert len(suspects) >= 7
    assert [name for name in suspects if not starts_ray(name)] == []


def test_a_file_is_one_unit_of_work_and_ray_is_one() -> None:
    """Servers of a module are started once, and no two Rays at a time."""
    assert lane_of("tests/e2e/test_the_loop.py::test_a[x::y]") == RAY_LANE
    assert lane_of("tests/conformance/test_placements.py::test_b") == RAY_LANE
    assert lane_of("tests/unit/recsys/test_lanes.py::test_c") == "tests/unit/recsys/test_lanes.py"
    assert not any(starts_ray(name) for name in files_of("unit"))


def test_long_tests_begin_first() -> None:
    """The lane of Ray, then tier by tier; unit tests fill what is left."""
    order = [
        "tests/conformance/test_placements.py::test_a",
        "tests/e2e/test_train_and_publish.py::test_a",
        "tests/integration/test_kafka_log.py::test_a",
        "tests/conformance/test_event_log_suite.py::test_a",
        "tests/unit/recsys/test_lanes.py::test_a",
    ]
    assert [turn_of(name) for name in order] == [0, 1, 2, 3, 4]
