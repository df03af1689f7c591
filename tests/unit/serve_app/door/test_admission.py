"""Admission: full is full, costly requests first, and leaving makes room however one leaves."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from recsys.errors import DeadlineExceeded
from serve_app.door.admission import (
    BULK_K,
    RETRY_AFTER_S,
    Admission,
    Lane,
    Refused,
    Seat,
    ShedReason,
    Wish,
)
from serve_app.door.concurrency_limit import LimitRules
from serve_app.http.problems import problem_headers, status_of
from serve_app.http.recommend_requests import RecommendRequest

PLAIN = Wish(deadline_ms=1_000)
BULK = Wish(deadline_ms=1_000, is_bulk=True)


class Clock:
    """A time that tests move."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def admission_for(ceiling: int, clock: Clock | None = None, floor: int = 1) -> Admission:
    """As many as `ceiling`, all of which fit into batches."""
    rules = LimitRules.of(floor, ceiling, ceiling, deadline_ms=1_000)
    return Admission(rules, clock_s=clock or Clock(), rng=random.Random(1))


def seated(admission: Admission, lane: Lane = Lane.SLATE) -> Seat:
    """A seat that must be there."""
    seat = admission.arrive(lane)
    assert seat is not None
    return seat


def let_in(admission: Admission, wish: Wish) -> Seat:
    """A seat of one whose wish was looked at."""
    seat = seated(admission)
    try:
        seat.admit(wish)
    except Refused:
        seat.close()
        raise
    return seat


def test_one_slate_too_many_finds_no_room_and_is_counted() -> None:
    """Until one leaves; the count is taken once."""
    admission = admission_for(2)
    first = seated(admission)
    with seated(admission):
        for _ in range(3):
            assert admission.arrive(Lane.SLATE) is None
        assert admission.n_inside == 2
    assert admission.take_refused() == {(Lane.SLATE, ShedReason.FULL): 3}
    assert not admission.take_refused()
    first.close()
    assert admission.n_inside == 0
    assert {admission.retry_after_s() for _ in range(60)} == set(range(1, RETRY_AFTER_S + 1))


def test_health_is_always_let_in_and_events_do_not_wait_for_slates() -> None:
    """A full gateway still says that it lives."""
    admission = admission_for(2)
    slates = [seated(admission) for _ in range(2)]
    others = [seated(admission, Lane.OTHER) for _ in range(2)]
    assert admission.arrive(Lane.OTHER) is None
    health = [seated(admission, Lane.HEALTH) for _ in range(50)]
    assert admission.n_inside == 2
    assert admission.take_refused() == {(Lane.OTHER, ShedReason.OPEN): 1}
    for seat in (*slates, *others, *health):
        seat.close()
    assert (admission.n_open, admission.n_inside) == (0, 0)


def test_callers_who_keep_their_exchange_open_leave_room_for_others() -> None:
    """They hold no seat of a slate while they read, and only so many may be open."""
    admission = admission_for(2)
    reading = []
    for _ in range(6):
        seat = seated(admission)
        with seat:
            pass
        reading.append(seat)
    assert (admission.n_open, admission.n_inside) == (6, 0)
    assert admission.arrive(Lane.SLATE) is None
    reading.pop().close()
    assert admission.arrive(Lane.SLATE) is not None


def test_a_body_that_is_waited_for_holds_no_seat() -> None:
    """The seat is asked for again once it is there, and may be gone by then."""
    admission = admission_for(1)
    slow = seated(admission)
    slow.step_out()
    with seated(admission):
        with pytest.raises(Refused) as refused:
            slow.step_in()
        assert refused.value.reason is ShedReason.FULL
        assert status_of(refused.value) == 503
        assert problem_headers(refused.value)[0][0] == b"retry-after"
    slow.step_in()
    assert admission.n_inside == 1
    slow.close()
    assert admission.n_inside == 0


def test_a_request_that_fails_makes_room() -> None:
    """The counter follows every way out."""
    admission = admission_for(1)
    for error in (KeyError, DeadlineExceeded, GeneratorExit):
        with pytest.raises(error), seated(admission):
            raise error("inside")
    assert admission.n_inside == 0


def test_costly_requests_are_refused_while_plain_ones_are_not() -> None:
    """They get half of the places, and one at least."""
    admission = admission_for(8)
    with ExitStack() as inside:
        for _ in range(4):
            inside.enter_context(let_in(admission, BULK))
        with pytest.raises(Refused) as refused:
            let_in(admission, BULK)
        assert refused.value.reason is ShedReason.BULK
        for _ in range(4):
            inside.enter_context(let_in(admission, PLAIN))
    with let_in(admission_for(1), BULK) as seat:
        assert seat.n_seen == 1


@pytest.mark.parametrize(
    ("request_", "is_bulk"),
    [
        (RecommendRequest("u"), False),
        (RecommendRequest("u", k=BULK_K - 1), False),
        (RecommendRequest("u", k=BULK_K), True),
        (RecommendRequest("u", explain=True), True),
    ],
)
def test_explained_and_long_slates_are_costly(request_: RecommendRequest, is_bulk: bool) -> None:
    """And a request without a deadline has the one of the settings."""
    assert Wish.of(request_, 700) == Wish(700, is_bulk)


def test_a_request_that_would_wait_past_its_deadline_is_refused_at_once() -> None:
    """Only its own deadline counts, and where few are inside it may try."""
    clock = Clock()
    admission = admission_for(64, clock, floor=8)
    for n in range(40):
        seats = [let_in(admission, PLAIN) for _ in range(40)]
        clock.now_s = 0.2 * (n + 1)
        for seat in seats:
            seat.teaches = True
            seat.close()
    hurried = Wish(deadline_ms=50)
    with ExitStack() as inside:
        for _ in range(8):
            inside.enter_context(let_in(admission, hurried))
        with pytest.raises(Refused) as refused:
            let_in(admission, hurried)
        assert refused.value.reason is ShedReason.DEADLINE
        assert "about 200 ms" in str(refused.value)
        inside.enter_context(let_in(admission, PLAIN))


def test_only_answers_that_teach_move_the_limit() -> None:
    """A slow canary, or costly requests, lower nothing for the others."""
    limits = []
    for teaches in (False, True):
        clock = Clock()
        rules = LimitRules.of(floor=4, working=32, ceiling=64, deadline_ms=1_000)
        admission = Admission(rules, clock_s=clock)
        for n in range(30):
            seats = [seated(admission) for _ in range(admission.limit)]
            clock.now_s += 0.9
            for seat in seats:
                seat.teaches = teaches
                seat.close()
            clock.now_s += 0.01 * n
        limits.append(admission.limit)
    assert limits[0] == 64
    assert limits[1] < 48
