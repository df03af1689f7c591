"""When a training is due: by cadence, by what is new, after failures, and over clock jumps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.learning_settings import ScheduleSettings
from recsys.stores.control.training_schedule import ScheduleState
from train_app.scheduling.due import (
    DAY_MS,
    HOUR_MS,
    MINUTE_MS,
    Decision,
    Seen,
    begun,
    due,
    earliest_ms,
    ended,
    steady,
)

NOW_MS = 1_790_000_000_000 // DAY_MS * DAY_MS + 10 * HOUR_MS
"""Ten in the morning in UTC."""
IDLE = ScheduleState(since_ms=NOW_MS - 3 * DAY_MS, known_engagements=1_000)
MUCH_NEW = Seen(n_engagements=10_000)
CADENCES = ("off", "hourly", "daily", "continuous", "on_drift")


def cadence(train: str, **more: object) -> ScheduleSettings:
    """Settings of a cadence."""
    return ScheduleSettings.model_validate({"train": train, **more})


def after(ago_ms: int, result: str = "published") -> ScheduleState:
    """A training of ten minutes that ended so long ago."""
    start_ms = NOW_MS - ago_ms - 10 * MINUTE_MS
    state = begun(start_ms, IDLE, Seen(1_000))
    return ended(NOW_MS - ago_ms, state, result, "")  # type: ignore[arg-type]


def test_nothing_is_due_while_it_is_off_or_somebody_trains() -> None:
    """The operator's training counts as one."""
    assert due(NOW_MS, IDLE, MUCH_NEW, cadence("off")).action == "wait"
    busy = Seen(10_000, is_training=True)
    assert due(NOW_MS, IDLE, busy, cadence("continuous")).reason == "a training runs"
    led = begun(NOW_MS - 1, IDLE, MUCH_NEW)
    assert due(NOW_MS, led, MUCH_NEW, cadence("continuous")).action == "wait"


def test_hourly_is_an_hour_after_the_last_one_began() -> None:
    """And says when."""
    waiting = due(NOW_MS, after(20 * MINUTE_MS), MUCH_NEW, cadence("hourly"))
    assert waiting == Decision("wait", "its time", NOW_MS + 30 * MINUTE_MS)
    assert due(NOW_MS, after(50 * MINUTE_MS), MUCH_NEW, cadence("hourly")).action == "train"


def test_daily_is_once_a_day_at_its_hour() -> None:
    """After the hour of today, and not again before that of tomorrow."""
    assert due(NOW_MS, after(2 * DAY_MS), MUCH_NEW, cadence("daily", at=9)).action == "train"
    today = due(NOW_MS, after(30 * MINUTE_MS), MUCH_NEW, cadence("daily", at=9))
    assert today.next_ms == NOW_MS // DAY_MS * DAY_MS + DAY_MS + 9 * HOUR_MS
    late = due(NOW_MS, after(30 * MINUTE_MS), MUCH_NEW, cadence("daily", at=23))
    assert late.next_ms == NOW_MS // DAY_MS * DAY_MS + 23 * HOUR_MS


def test_too_little_new_is_waited_for_and_said() -> None:
    """Deleted engagements are not negative news."""
    few = due(NOW_MS, IDLE, Seen(1_999), cadence("continuous"))
    assert few == Decision("wait", "999 new engagements, 1,000 wanted")
    assert due(NOW_MS, IDLE, Seen(2_000), cadence("continuous")).action == "train"
    assert due(NOW_MS, IDLE, Seen(0), cadence("continuous")).reason.startswith("0 new")


def test_continuous_rests_between_trainings() -> None:
    """So that serving has the machine for itself now and then."""
    settings = cadence("continuous", rest_minutes=5)
    assert due(NOW_MS, after(4 * MINUTE_MS), MUCH_NEW, settings).next_ms == NOW_MS + MINUTE_MS
    assert due(NOW_MS, after(5 * MINUTE_MS), MUCH_NEW, settings).action == "train"


def test_drift_is_looked_at_now_and_then_and_trains_beyond_the_bound() -> None:
    """Each training begins the looking anew."""
    settings = cadence("on_drift", drift_check_minutes=60, max_drift=0.2)
    assert due(NOW_MS, IDLE, MUCH_NEW, settings).action == "check_drift"
    calm = replace(IDLE, drift=0.1, drift_checked_ms=NOW_MS - MINUTE_MS)
    assert due(NOW_MS, calm, MUCH_NEW, settings).next_ms == NOW_MS + 59 * MINUTE_MS
    stale = replace(calm, drift_checked_ms=NOW_MS - 61 * MINUTE_MS)
    assert due(NOW_MS, stale, MUCH_NEW, settings).action == "check_drift"
    shifted = replace(calm, drift=0.3)
    assert due(NOW_MS, shifted, MUCH_NEW, settings).action == "train"
    assert begun(NOW_MS, shifted, MUCH_NEW).drift_checked_ms == 0


@pytest.mark.parametrize("train", ["hourly", "daily", "continuous", "on_drift"])
def test_a_failed_training_is_tried_again_later_and_later(train: str) -> None:
    """Without waiting for more data; a refusal is no failure."""
    settings = cadence(train, rest_minutes=5)
    state = IDLE
    waits = []
    for _ in range(14):
        state = ended(NOW_MS, begun(NOW_MS - 1, state, MUCH_NEW), "failed", "no")
        waits.append(earliest_ms(state, settings) - NOW_MS)
        assert due(NOW_MS, state, MUCH_NEW, settings).action == "wait"
        assert due(NOW_MS + waits[-1], state, MUCH_NEW, settings).action == "train"
    assert waits[:3] == [5 * MINUTE_MS, 10 * MINUTE_MS, 20 * MINUTE_MS]
    assert waits[-1] == DAY_MS
    assert ended(NOW_MS, state, "refused", "the gate").n_failures == 0


def test_a_clock_set_back_does_not_stop_the_schedule() -> None:
    """What lies ahead is taken for now, so the next training is one period away."""
    state = steady(NOW_MS - DAY_MS, after(0))
    assert state.started_ms == NOW_MS - DAY_MS
    assert not state.is_training
    assert due(NOW_MS - DAY_MS + HOUR_MS, state, MUCH_NEW, cadence("hourly")).action == "train"
    running = steady(NOW_MS - DAY_MS, begun(NOW_MS, IDLE, MUCH_NEW))
    assert running.is_training


TIMES = st.integers(0, 2 * NOW_MS)


@settings(deadline=None, max_examples=50)
@given(st.sampled_from(CADENCES[1:]), st.lists(TIMES, min_size=1, max_size=20), st.booleans())
def test_over_any_clock_jumps_one_training_at_a_time_and_none_is_waited_for_beyond_a_period(
    train: str, clock_ms: list[int], fails: bool
) -> None:
    """A day and a bit after any moment, whatever the clock did before, something is due."""
    how = cadence(train, min_new_engagements=1, drift_check_minutes=60)
    state, n_engagements = ScheduleState(since_ms=clock_ms[0]), 0
    for now_ms in clock_ms:
        n_engagements += 1
        state = steady(now_ms, state)
        decision = due(now_ms, state, Seen(n_engagements), how)
        assert decision.next_ms == 0 or now_ms < decision.next_ms <= now_ms + DAY_MS + 1
        if decision.action == "check_drift":
            state = replace(state, drift=1.0, drift_checked_ms=now_ms)
        elif decision.action == "train":
            state = begun(now_ms, state, Seen(n_engagements))
            assert due(now_ms, state, Seen(n_engagements), how).action == "wait"
            state = ended(now_ms, state, "failed" if fails else "published", "")
    late_ms = clock_ms[-1] + DAY_MS + 1
    assert due(late_ms, state, Seen(n_engagements + 1), how).action != "wait"
