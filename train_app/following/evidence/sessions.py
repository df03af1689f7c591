"""Sessions of a user: activity in event time without a pause longer than a gap.

Pure. `join_session` takes activity one by one in any order, `sessions_of` all of it at once;
both give the same sessions, whatever the order.
"""

from __future__ import annotations

from bisect import insort
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from train_app.following.evidence.user_trail import Cell, OpenSession

_start_of = attrgetter("start_ms")


def join_session(
    sessions: list[OpenSession],
    at_ms: int,
    gap_ms: int,
    slate: tuple[int, str, Cell] | None = None,
) -> tuple[list[OpenSession], OpenSession]:
    """Take in activity at a moment; changes `sessions`, which stay in order of start.

    Activity that lies between two sessions, within the gap of both, makes them one.

    Args:
        slate: when, for which request and under which cell a slate was shown, if one was.

    Returns:
        The sessions that were replaced, and the one that stands for them now.
    """
    replaced = [one for one in sessions if one.start_ms - gap_ms <= at_ms <= one.end_ms + gap_ms]
    slates = [one.first_slate for one in replaced if one.first_slate is not None]
    slates += [slate] if slate is not None else []
    joined = OpenSession(
        min([at_ms, *(one.start_ms for one in replaced)]),
        max([at_ms, *(one.end_ms for one in replaced)]),
        min(slates, key=lambda shown: shown[:2]) if slates else None,
    )
    for one in replaced:
        sessions.remove(one)
    insort(sessions, joined, key=_start_of)
    return replaced, joined


def sessions_of(
    user_index: NDArray[np.int64], times_ms: NDArray[np.int64], gap_ms: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All sessions of columns [M] of activity: their users, starts and ends, [S] each.

    By user, then by start.
    """
    order = np.lexsort((times_ms, user_index))
    users, times = user_index[order], times_ms[order]
    if not len(times):
        return users, times, times
    begins = np.ones(len(times), dtype=np.bool_)
    begins[1:] = (users[1:] != users[:-1]) | (np.diff(times) > gap_ms)
    first = np.flatnonzero(begins)
    last = np.append(first[1:], len(times)) - 1
    return users[first], times[first], times[last]
