"""What each phase of a run cost, by the labels of its progress."""

from __future__ import annotations

from train_app.phase_clock import PhaseClock, cpu_s, peak_memory_mb, phases_text


def test_time_counts_to_the_phase_that_was_told_last() -> None:
    """A label that comes again adds up; progress is passed on untouched."""
    told: list[tuple[str, float]] = []
    wall, cpu = iter(range(0, 1000, 10)), iter(range(0, 100, 1))
    clock = PhaseClock(
        lambda label, share: told.append((label, share)),
        lambda: float(next(wall)),
        lambda: float(next(cpu)),
    )
    for label, share in (("read", 0.0), ("read", 1.0), ("train", 0.5), ("read", 0.5)):
        clock(label, share)
    assert told == [("read", 0.0), ("read", 1.0), ("train", 0.5), ("read", 0.5)]
    phases = clock.phases()
    assert list(phases) == ["read", "train"]
    assert phases["read"]["wall_s"] == 2 * phases["train"]["wall_s"] == 20
    assert phases["train"]["cpu_s"] == 1
    assert phases_text(phases) == "processor time: read 2 s, train 1 s; 3 s in all"


def test_the_processor_time_of_this_process_grows() -> None:
    """And it has some memory."""
    before_s = cpu_s()
    total = sum(number * number for number in range(200_000))
    assert total > 0
    assert cpu_s() > before_s
    assert peak_memory_mb() > 1
