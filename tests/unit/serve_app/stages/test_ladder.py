"""The ladder of degraded answers, for any waits: when a rung is climbed and that each is left."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from serve_app.stages.ladder import CALM_S, MIN_BATCHES, STEP_S, Ladder, Rung

WAIT_S = 0.2


def climbed(ladder: Ladder, from_s: float = 0.0) -> float:
    """Batches that wait too long until the last rung is reached; when that was."""
    now_s = from_s
    while ladder.rung(2 * WAIT_S, now_s) < Rung.POPULAR:
        now_s += 0.05
        assert now_s < from_s + 10
    return now_s


def test_long_waits_climb_one_rung_after_the_other() -> None:
    """Not before an interval has shown that the queue stands."""
    ladder = Ladder(WAIT_S)
    seen = [ladder.rung(2 * WAIT_S, n * 0.05) for n in range(40)]
    assert seen[0] is Rung.WHOLE
    assert all(after - before in (0, 1) for before, after in pairwise(seen))
    assert seen[-1] is Rung.POPULAR
    assert [seen.index(rung) * 0.05 >= rung * STEP_S for rung in Rung] == [True] * 4


def test_every_rung_is_left_by_itself_once_the_waits_are_short() -> None:
    """One after the other."""
    ladder = Ladder(WAIT_S)
    now_s = climbed(ladder)
    seen = [ladder.rung(0.0, now_s + n * 0.05) for n in range(1, int(3.5 * CALM_S / 0.05))]
    assert all(before - after in (0, 1) for before, after in pairwise(seen))
    assert seen[-1] is Rung.WHOLE


def test_a_silence_leaves_the_ladder_too() -> None:
    """Whoever comes after the rush is answered whole."""
    ladder = Ladder(WAIT_S)
    now_s = climbed(ladder)
    assert ladder.rung(0.0, now_s + 3.1 * CALM_S) is Rung.WHOLE


def test_a_slow_batch_now_and_then_is_no_queue() -> None:
    """However slow it was."""
    ladder = Ladder(WAIT_S)
    waits_s = [5.0 if n % MIN_BATCHES == 0 else 0.01 for n in range(200)]
    assert {ladder.rung(s, n * 0.05) for n, s in enumerate(waits_s)} == {Rung.WHOLE}
    slow = Ladder(WAIT_S)
    assert {slow.rung(5.0, n * 2 * CALM_S) for n in range(20)} == {Rung.WHOLE}


def test_a_ladder_that_is_switched_off_stays_down() -> None:
    """A wait of 0 in the settings."""
    ladder = Ladder(0.0)
    assert {ladder.rung(9.0, n * 0.05) for n in range(100)} == {Rung.WHOLE}


@settings(deadline=None, max_examples=50)
@given(
    batches=st.lists(
        st.tuples(st.floats(0.0, 1.0), st.floats(0.001, 2.0)), min_size=1, max_size=200
    )
)
def test_short_waits_never_climb_and_calm_always_leaves(batches: list[tuple[float, float]]) -> None:
    """Whatever came before."""
    ladder, now_s, before = Ladder(WAIT_S), 0.0, Rung.WHOLE
    for waited_s, pause_s in batches:
        now_s += pause_s
        rung = ladder.rung(waited_s, now_s)
        assert rung - before <= 1
        before = rung
    for _ in range(3):
        now_s += CALM_S
        assert ladder.rung(0.0, now_s) <= before
    assert ladder.rung(0.0, now_s) is Rung.WHOLE
