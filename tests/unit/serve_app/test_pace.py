"""How often copies may begin beside users' requests."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve_app.shadowing.pace import Pace


def test_copies_need_not_wait_while_no_user_does() -> None:
    """Nor does what they rest for beside users hold them up then."""
    pace = Pace(0.05)
    assert pace.rest_s(10.0, is_answering=True) == 0.0
    pace.ended(10.0, 10.02)
    assert pace.rest_s(10.02, is_answering=False) == 0.0
    assert pace.rest_s(10.02, is_answering=True) == pytest.approx(0.38)
    assert pace.rest_s(10.5, is_answering=True) == 0.0


@given(
    st.floats(0.01, 1.0),
    st.lists(st.tuples(st.floats(0.0, 2.0), st.floats(0.001, 0.5)), min_size=1, max_size=30),
)
def test_beside_users_copies_take_no_more_than_their_share(
    share: float, batches: list[tuple[float, float]]
) -> None:
    """Over any run of batches that begin as soon as they may, or later, up to the next's begin."""
    pace, now_s, under_way_s = Pace(share), 100.0, 0.0
    for idle_s, elapsed_s in batches:
        now_s += pace.rest_s(now_s, is_answering=True) + idle_s
        pace.ended(now_s, now_s + elapsed_s)
        now_s += elapsed_s
        under_way_s += elapsed_s
    may_begin_s = now_s + pace.rest_s(now_s, is_answering=True)
    assert under_way_s <= share * (may_begin_s - 100.0) * (1 + 1e-6) + 1e-6


def test_batches_that_were_under_way_together_rest_one_after_the_other() -> None:
    """Two at once hold users up for as long as two in turn."""
    pace = Pace(0.1)
    pace.ended(0.0, 0.01)
    pace.ended(0.0, 0.01)
    assert pace.rest_s(0.01, is_answering=True) == pytest.approx(0.18)
