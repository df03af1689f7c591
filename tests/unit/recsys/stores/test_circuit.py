"""When a failing server is left alone, and who may try it again."""

from __future__ import annotations

from recsys.stores.circuit import Circuit


class Clock:
    """Seconds that pass when told."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def an_open_circuit(clock: Clock) -> Circuit:
    """A circuit after three failures in a row."""
    circuit = Circuit(opens_after=3, pause_s=0.5, clock_s=clock)
    for _ in range(3):
        assert circuit.lets_through()
        circuit.failed()
    return circuit


def test_single_failures_open_nothing() -> None:
    """Only failures in a row count."""
    circuit = Circuit(opens_after=3, clock_s=Clock())
    for _ in range(10):
        circuit.failed()
        circuit.failed()
        circuit.succeeded()
    assert circuit.lets_through()


def test_an_open_circuit_lets_one_caller_through_per_pause() -> None:
    """The others fail at once."""
    clock = Clock()
    circuit = an_open_circuit(clock)
    assert not circuit.lets_through()
    clock.now_s += 0.5
    assert [circuit.lets_through() for _ in range(4)] == [True, False, False, False]
    clock.now_s += 0.5
    assert [circuit.lets_through() for _ in range(4)] == [True, False, False, False]


def test_a_failed_try_starts_the_pause_anew_and_a_good_one_closes() -> None:
    """Recovery needs nobody."""
    clock = Clock()
    circuit = an_open_circuit(clock)
    clock.now_s += 0.5
    assert circuit.lets_through()
    clock.now_s += 0.4
    circuit.failed()
    clock.now_s += 0.4
    assert not circuit.lets_through()
    clock.now_s += 0.1
    assert circuit.lets_through()
    circuit.succeeded()
    assert all(circuit.lets_through() for _ in range(4))
