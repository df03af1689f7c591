"""How long the oldest record has waited, told from counts."""

from __future__ import annotations

from train_app.following.waiting import MAX_SAMPLES, Waiting


def test_nothing_waits_while_all_is_taken() -> None:
    """Freshness is 0 seconds."""
    waiting = Waiting()
    waiting.note(10.0, 5, 0, is_same=True)
    assert waiting.oldest_s(12.0, 5) == 0.0


def test_a_record_waits_since_the_look_that_first_saw_it() -> None:
    """Records that come later do not make it look younger."""
    waiting = Waiting()
    waiting.note(10.0, 5, 3, is_same=True)
    waiting.note(11.0, 5, 9, is_same=True)
    assert waiting.oldest_s(12.0, 5) == 2.0
    assert waiting.lag_records == 9
    assert waiting.oldest_s(12.0, 8) == 1.0
    assert waiting.oldest_s(12.0, 14) == 0.0


def test_what_another_follower_took_no_longer_waits() -> None:
    """The count of what is behind shrank without our taking anything."""
    waiting = Waiting()
    waiting.note(10.0, 0, 100, is_same=True)
    waiting.note(20.0, 0, 4, is_same=True)
    assert waiting.oldest_s(21.0, 0) == 1.0


def test_another_share_of_the_partitions_begins_anew() -> None:
    """Counts of other partitions say nothing of these."""
    waiting = Waiting()
    waiting.note(10.0, 0, 100, is_same=True)
    waiting.note(11.0, 0, 200, is_same=False)
    assert waiting.oldest_s(12.0, 0) == 1.0


def test_a_long_standstill_is_remembered_in_bounded_memory() -> None:
    """The oldest looks are dropped, so the answer is too small and never too large."""
    waiting = Waiting()
    for second in range(MAX_SAMPLES + 10):
        waiting.note(float(second), 0, second + 1, is_same=True)
    assert waiting.oldest_s(float(MAX_SAMPLES + 10), 0) == float(MAX_SAMPLES)
