"""Plan files, arguments and the files of a run with any content: read, or refused as ours."""

from __future__ import annotations

import contextlib
import json
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.local.owned_processes import RunRecord, read_record
from cluster.local.run_files import RunState, read_document, read_state
from cluster.rollouts.deciding.rollout_plan import RolloutPlan
from cluster.rollouts.deciding.rollout_plan_file import parse_plan
from cluster.rollouts.simulation.traffic_shape import Effect, parse_effect
from recsys.errors import ConfigError

PLAN = """
name = "ours"
label_window_s = {0}
shadow_requests = {1}
[[steps]]
share = {2}
min_users = {3}
max_s = {4}
on_timeout = {5}
metrics = {6}
[metrics.ctr]
margin = {7}
"""
GOOD = ("3600.0", "10", "0.05", "100", "7200.0", '"hold"', '["error_rate", "ctr"]', "0.05")
VALUES = (
    "inf", "-inf", "nan", "-1", "0", "1e308", "9" * 400, '"x"', '""', "true", "[]", "[[]]", "{}",
    "1979-05-27", '["ctr", 3]', "{a = 1}",
)  # fmt: skip
RUN_FIELDS = st.sampled_from(
    ["run_id", "machine", "supervisor", "processes", "pid", "phase", "step", "error", "name"]
)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.floats() | RUN_FIELDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(RUN_FIELDS, inner, max_size=5),
    max_leaves=16,
)


def test_the_plan_that_is_changed_below_can_be_read() -> None:
    """So that what is refused is refused for its change."""
    assert parse_plan(PLAN.format(*GOOD)).steps[0].share == 0.05


def test_a_plan_file_with_any_value_replaced_is_read_or_refused() -> None:
    """Numbers without end, other types, other shapes."""
    for place in range(len(GOOD)):
        read = []
        for value in VALUES:
            with contextlib.suppress(ConfigError):
                read.append(parse_plan(PLAN.format(*GOOD[:place], value, *GOOD[place + 1 :])))
        assert all(isinstance(plan, RolloutPlan) for plan in read)
        assert len(read) < len(VALUES), f"nothing is refused in place of {GOOD[place]}"


@given(st.text(max_size=80))
@settings(max_examples=50, deadline=None)
def test_any_text_is_a_plan_or_an_effect_or_is_refused(text: str) -> None:
    """Also behind the names that are known."""
    with contextlib.suppress(ConfigError):
        assert isinstance(parse_plan(text), RolloutPlan)
    for said in (text, f"ctr={text}"):
        with contextlib.suppress(ConfigError):
            assert isinstance(parse_effect(said), Effect)


@given(st.binary(max_size=60) | JSON.map(lambda document: json.dumps(document).encode()))
@settings(max_examples=50, deadline=None)
def test_files_of_a_run_with_any_content_are_read_or_absent(content: bytes) -> None:
    """A disk that was full leaves half a file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.json"
        path.write_bytes(content)
        assert isinstance(read_document(path), dict | None)
        assert isinstance(read_state(path), RunState | None)
        assert isinstance(read_record(path), RunRecord | None)
