"""Plan watch: the last good view survives a store that is away, and epochs only grow."""

from __future__ import annotations

import random
import threading

import pytest

from recsys.errors import StoreError
from recsys.stores.control.control import ControlView
from recsys.traffic import TrafficPlan
from serve_app.residents.plan_watch import PlanWatch, newer_view


def a_view(epoch: int, bundle_id: str = "b1") -> ControlView:
    """A view whose plan gives everything to one bundle."""
    return ControlView(TrafficPlan.single(bundle_id, epoch, "salt"), (bundle_id,), {}, epoch)


def a_watch(answers: list[ControlView | Exception], followed: list[ControlView]) -> PlanWatch:
    """A watch of a store that answers these, one per poll."""

    def read() -> ControlView:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return PlanWatch(read, followed.append, 0.01, random.Random(0))


def test_the_last_good_view_is_kept_while_the_store_is_away() -> None:
    """Serving goes on without a control store."""
    followed: list[ControlView] = []
    watch = a_watch([a_view(3), StoreError("away"), OSError("gone"), a_view(4)], followed)
    epochs = []
    for _ in range(4):
        watch.poll()
        assert watch.view is not None
        assert watch.view.plan is not None
        epochs.append(watch.view.plan.epoch)
    assert epochs == [3, 3, 3, 4]
    assert len(followed) == 4


def test_nothing_is_followed_before_the_first_view() -> None:
    """A replica that never read the store requires nothing."""
    followed: list[ControlView] = []
    watch = a_watch([StoreError("away")], followed)
    watch.poll()
    assert watch.view is None
    assert followed == []


@pytest.mark.parametrize("late", [a_view(2, "old"), ControlView(None, ("b9",), {}, 9)])
def test_a_plan_never_goes_back(late: ControlView) -> None:
    """A store restored from an old copy does not move traffic."""
    kept = newer_view(a_view(3, "new"), late)
    assert kept.plan == a_view(3, "new").plan
    assert kept.required == late.required


def test_the_thread_polls_when_woken_and_survives_a_follower_that_fails() -> None:
    """One bad turn does not end the polling."""
    seen = threading.Event()
    n_calls = 0

    def follow(view: ControlView) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            raise RuntimeError("first turn fails")
        seen.set()

    watch = PlanWatch(lambda: a_view(1), follow, 60.0, random.Random(0))
    watch.start()
    try:
        for _ in range(100):
            watch.wake()
            if seen.wait(0.05):
                break
        assert seen.is_set()
    finally:
        watch.stop()
