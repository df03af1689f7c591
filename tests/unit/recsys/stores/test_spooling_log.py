"""The log with a spool: nothing acknowledged is lost, order is kept, and the way back is found."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from recsys.errors import DataError, StoreError
from recsys.events import Engagement, Event, decode_event
from recsys.stores.log.event_log import MAX_RECORD_BYTES, LogPosition, PartlyStored
from recsys.stores.spool.spool import REFUSED_NAME, Spool
from recsys.stores.spool.spool_folder import adopt_orphans, own_spool
from recsys.stores.spool.spooling_log import SpoolingLog
from tests.fakes_event_log import MemoryEventLog

WAIT_S = 20.0
MIB = 1024 * 1024


class Broker(MemoryEventLog):
    """A log that can be away, or lose the answer to part of a write; it keeps every delivery."""

    def __init__(self) -> None:
        super().__init__(1)
        self.is_away = False
        self.n_acknowledged: int | None = None
        """Of the next write only so many events are acknowledged, and stored."""
        self.delivered: list[str] = []
        self.n_calls = 0

    def append(self, events: Sequence[Event]) -> list[LogPosition]:
        """Store all events, or as many as it is told to."""
        if not events:
            return []
        self.n_calls += 1
        if self.is_away:
            raise PartlyStored("the broker is away", events)
        if any(getattr(event, "item_id", "") == "never" for event in events):
            raise ValueError("no such item")
        n, self.n_acknowledged = self.n_acknowledged, None
        kept = events if n is None else events[:n]
        self.delivered += [event.event_id for event in kept]
        positions = super().append(kept)
        if len(kept) < len(events):
            raise PartlyStored("one of the brokers is away", events[len(kept) :])
        return positions

    def end_offsets(self) -> dict[int, int]:
        """As the log's; an absent broker answers nothing."""
        if self.is_away:
            raise StoreError("the broker is away")
        return super().end_offsets()


def clicks(*numbers: int, item_id: str = "i1") -> list[Event]:
    """Numbered clicks of one user."""
    return [
        Engagement(
            event_id=f"e{number}",
            kind="click",
            user_id="u1",
            item_id=item_id,
            timestamp_ms=number,
            received_at_ms=number,
            origin="api",
        )
        for number in numbers
    ]


def ids(*numbers: int) -> list[str]:
    """Their event ids."""
    return [f"e{number}" for number in numbers]


def stored(broker: Broker) -> list[str]:
    """The event ids in the log, in order."""
    return [decode_event(record.value).event_id for record in broker.read(0, 0, 100_000)]


def until(is_so: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    give_up_at_s = time.monotonic() + WAIT_S
    while not is_so():
        assert time.monotonic() < give_up_at_s, f"never came: {what}"
        threading.Event().wait(0.002)


def test_while_the_broker_answers_nothing_is_spooled(tmp_path: Path) -> None:
    """The straight way leaves no file behind."""
    broker = Broker()
    log = SpoolingLog(broker, Spool(tmp_path, MIB))
    log.append(clicks(1, 2))
    log.append(clicks(3))
    assert stored(broker) == ids(1, 2, 3)
    assert (log.n_spooled, log.spooled_events, log.is_broker_away) == (0, 0, False)
    assert list(tmp_path.glob("*.spool")) == []
    log.close()


def test_events_of_an_absence_come_in_order_when_the_broker_is_back(tmp_path: Path) -> None:
    """Those that arrive while the old ones are brought wait behind them."""
    broker = Broker()
    log = SpoolingLog(broker, Spool(tmp_path, MIB))
    log.append(clicks(0))
    broker.is_away = True
    for number in range(1, 901, 30):
        log.append(clicks(*range(number, number + 30)))
    assert log.is_broker_away
    assert log.spooled_events == 900
    assert log.spooled_bytes > 0
    broker.is_away = False
    for number in range(901, 920):
        log.append(clicks(number))
    until(lambda: not log.spooled_events, "the spool is empty")
    until(lambda: not log.is_broker_away, "the broker is known to be back")
    log.append(clicks(920))
    assert stored(broker) == broker.delivered == ids(*range(921))
    assert log.n_spooled >= 900
    log.close()


def test_a_known_absence_is_not_waited_for_again(tmp_path: Path) -> None:
    """Only the thread that brings events asks the broker; appends go to the disk at once."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, MIB), is_away=True)
    for number in range(40):
        log.append(clicks(number))
    assert broker.n_calls < 10
    assert log.spooled_events == 40
    log.close()


def test_without_traffic_the_return_is_noticed_too(tmp_path: Path) -> None:
    """A log that started without a broker goes straight as soon as there is one."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, MIB), is_away=True)
    broker.is_away = False
    until(lambda: not log.is_broker_away, "the broker is known to be there")
    log.append(clicks(1))
    assert log.n_spooled == 0
    assert stored(broker) == ids(1)
    log.close()


def test_what_was_acknowledged_is_not_sent_again(tmp_path: Path) -> None:
    """Of a write whose answer was lost in part, only the rest takes the spool."""
    broker = Broker()
    log = SpoolingLog(broker, Spool(tmp_path, MIB))
    broker.n_acknowledged = 2
    log.append(clicks(1, 2, 3, 4))
    assert log.n_spooled == 2
    until(lambda: not log.spooled_events, "the spool is empty")
    assert broker.delivered == ids(1, 2, 3, 4)
    log.close()


def test_bringing_half_a_batch_goes_on_with_the_other_half(tmp_path: Path) -> None:
    """A drain that was answered in part does not begin again."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, MIB), is_away=True)
    log.append(clicks(1, 2, 3, 4))
    broker.n_acknowledged = 3
    broker.is_away = False
    until(lambda: not log.spooled_events, "the spool is empty")
    assert broker.delivered == ids(1, 2, 3, 4)
    log.close()


def test_the_next_process_brings_what_the_last_one_left(tmp_path: Path) -> None:
    """A restart while the broker is away loses nothing and keeps the order."""
    broker = Broker()
    broker.is_away = True
    for life in range(3):
        spool = own_spool(tmp_path, f"life{life}", MIB)
        log = SpoolingLog(broker, spool, is_away=True)
        log.append(clicks(2 * life, 2 * life + 1))
        log.close()
    broker.is_away = False
    spool = own_spool(tmp_path, "last", MIB)
    log = SpoolingLog(broker, spool, lambda: adopt_orphans(spool, tmp_path))
    log.append(clicks(6))
    until(lambda: not log.spooled_events, "the spool is empty")
    assert stored(broker) == ids(*range(7))
    log.close()


def test_when_neither_takes_them_the_caller_is_told(tmp_path: Path) -> None:
    """A full spool stores nothing of the batch, and takes events again after the absence."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, 1000), is_away=True)
    log.append(clicks(1))
    with pytest.raises(StoreError, match=r"spool .* is full with 1 events"):
        log.append(clicks(*range(2, 12)))
    broker.is_away = False
    until(lambda: not log.spooled_events, "the spool is empty")
    log.append(clicks(2))
    assert stored(broker) == ids(1, 2)
    log.close()


def test_an_event_the_log_can_never_take_does_not_stop_the_others(tmp_path: Path) -> None:
    """It is kept in a file of its own and counted."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, MIB), is_away=True)
    log.append([*clicks(1, 2), *clicks(3, item_id="never"), *clicks(4)])
    broker.is_away = False
    until(lambda: not log.spooled_events, "the spool is empty")
    assert stored(broker) == ids(1, 2, 4)
    assert log.n_refused == 1
    refused = (tmp_path / REFUSED_NAME).read_bytes().splitlines()
    assert [decode_event(line).event_id for line in refused] == ids(3)
    log.close()


def test_an_event_too_large_for_the_log_never_reaches_the_spool(tmp_path: Path) -> None:
    """Nothing is acknowledged that could not be brought later."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, 2 * MIB), is_away=True)
    with pytest.raises(DataError, match="expected at most"):
        log.append(clicks(1, item_id="i" * MAX_RECORD_BYTES))
    assert log.spooled_events == 0
    log.close()


def test_a_closed_log_takes_nothing(tmp_path: Path) -> None:
    """Its folder may be another process's already."""
    broker = Broker()
    broker.is_away = True
    log = SpoolingLog(broker, Spool(tmp_path, MIB), is_away=True)
    log.close()
    with pytest.raises(StoreError, match="is closed"):
        log.append(clicks(1))
