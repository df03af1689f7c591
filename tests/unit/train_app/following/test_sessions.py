"""Sessions one event at a time and all at once."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from train_app.following.evidence.sessions import join_session, sessions_of
from train_app.following.evidence.user_trail import ORGANIC, Cell, OpenSession

GAP_MS = 10
CELL = Cell("b", "canary", "", "")


def streamed(times: list[int]) -> list[OpenSession]:
    """The sessions of one user's activity, taken in one by one."""
    sessions: list[OpenSession] = []
    for at_ms in times:
        join_session(sessions, at_ms, GAP_MS)
    return sessions


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 200), max_size=30), st.randoms())
def test_the_order_of_arrival_makes_no_difference(times: list[int], rng: object) -> None:
    """Streamed in any order equals computed at once."""
    shuffled = list(times)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    users = np.zeros(len(times), np.int64)
    _, starts, ends = sessions_of(users, np.array(times, np.int64), GAP_MS)
    found = [(one.start_ms, one.end_ms) for one in streamed(shuffled)]
    assert found == list(zip(starts.tolist(), ends.tolist(), strict=True))


def test_sessions_of_several_users_stay_apart() -> None:
    """However close in time."""
    users, starts, ends = sessions_of(
        np.array([1, 0, 1, 0]), np.array([0, 5, 8, 40], np.int64), GAP_MS
    )
    assert users.tolist() == [0, 0, 1]
    assert starts.tolist() == [5, 40, 0]
    assert ends.tolist() == [5, 40, 8]


def test_a_pause_of_the_gap_itself_ends_no_session() -> None:
    """A longer one does."""
    assert len(streamed([0, GAP_MS])) == 1
    assert len(streamed([0, GAP_MS + 1])) == 2


def test_a_session_is_of_the_first_slate_in_it() -> None:
    """Also when a late one turns out to be the first, or joins two sessions."""
    sessions: list[OpenSession] = []
    _, organic = join_session(sessions, 0, GAP_MS)
    assert organic.cell == ORGANIC
    join_session(sessions, 18, GAP_MS, (18, "r2", Cell("b", "stable", "", "")))
    replaced, joined = join_session(sessions, 9, GAP_MS, (9, "r1", CELL))
    assert len(replaced) == 2
    assert joined.cell == CELL
    assert sessions == [joined]
