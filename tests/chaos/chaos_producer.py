"""A gateway's write path as a process of its own: offers its events and notes what is acknowledged.

`python -m tests.chaos.chaos_producer ORDER`; it is told on its input up to which event it may go,
says how it goes in JSON lines, and ends with its input. What was not acknowledged before it was
killed, its successor sends again.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from recsys.errors import Overloaded, StoreError
from recsys.events import Engagement, Impression, ShownItem
from recsys.settings import Settings
from recsys.stores.log.open_log import open_writer_log
from serve_app.log_writer import LogWriter
from tests.chaos.chaos_events import chaos_event
from tests.chaos.chaos_plan import ChaosPlan

N_AT_ONCE = 8
REPORT_EVERY_S = 0.25
RETRY_S = 0.1
ALWAYS_SHOWN = ("i0", "i1")


@dataclass(frozen=True)
class Order:
    """What one producer is to do."""

    settings: dict[str, Any]
    plan: dict[str, Any]
    producer: int
    n_producers: int
    owner: str
    base_ms: int
    acknowledged: str
    """A file of acknowledged event numbers, one batch per line; appended to."""

    def as_argument(self) -> str:
        """The order as the program takes it."""
        return json.dumps(asdict(self))


def read_acknowledged(path: Path) -> set[int]:
    """The acknowledged event numbers of a file; a line that a kill cut short counts as none."""
    if not path.exists():
        return set()
    lines = path.read_text().split("\n")[:-1]
    return {int(n) for line in lines for n in line.split()}


def an_impression(engagement: Engagement) -> Impression:
    """A slate with an engagement's item, as a gateway offers it after an answer."""
    slate = tuple(
        ShownItem(
            item_id=item_id,
            position=place,
            score=0.5,
            propensity=1.0,
            source="index",
            retrieval_score=0.5,
            retrieval_rank=place,
        )
        for place, item_id in enumerate(dict.fromkeys((engagement.item_id, *ALWAYS_SHOWN)))
    )
    event_id = f"{engagement.event_id}-shown"
    return Impression(
        event_id=event_id,
        request_id=event_id,
        user_id=engagement.user_id,
        timestamp_ms=engagement.timestamp_ms,
        bundle_id="b0001",
        variant="stable",
        slate=slate,
    )


class Producer:
    """Sends the events that are its own and not acknowledged yet, as far as it is told to."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._plan = ChaosPlan(**order.plan)
        settings = Settings.model_validate(order.settings)
        self._log = open_writer_log(settings, order.owner)
        self._writer = LogWriter(self._log, settings.events.max_queued)
        self._file = os.open(order.acknowledged, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        known = read_acknowledged(Path(order.acknowledged))
        mine = range(order.producer, self._plan.n_events, order.n_producers)
        self._waiting = [n for n in mine if n not in known]
        self._next = 0
        self.n_due = 0
        """Events below this number are to be offered now."""
        self.n_acknowledged = len(known)
        self.n_refused = 0
        self.is_done = False

    async def run(self) -> None:
        """Return when everything is acknowledged."""
        await asyncio.gather(*(self._send_batches() for _ in range(N_AT_ONCE)))
        self.is_done = True

    def report(self) -> dict[str, Any]:
        """How it goes."""
        return {
            "n_acknowledged": self.n_acknowledged,
            "n_refused": self.n_refused,
            "n_dropped": self._writer.n_dropped,
            "queue": self._writer.queue_depth,
            "spooled": spooled_records(self._log),
            "rss_mb": psutil.Process().memory_info().rss / 1e6,
            "is_done": self.is_done,
        }

    def close(self) -> None:
        """Write what waits and give everything back."""
        self._writer.close()
        self._log.close()

    async def _send_batches(self) -> None:
        size = self._plan.batch_events
        while self._next < len(self._waiting):
            batch = self._waiting[self._next : self._next + size]
            self._next += size
            while self.n_due <= batch[-1]:
                await asyncio.sleep(0.01)
            await self._send(batch)

    async def _send(self, batch: list[int]) -> None:
        plan, order = self._plan, self._order
        events = [
            chaos_event(plan.seed, n, order.base_ms, plan.n_users, plan.n_items) for n in batch
        ]
        while True:
            try:
                await self._writer.append(events)
                break
            except (StoreError, Overloaded):
                self.n_refused += 1
                await asyncio.sleep(RETRY_S)
        os.write(self._file, (" ".join(map(str, batch)) + "\n").encode())
        self.n_acknowledged += len(batch)
        for event in events[:: plan.events_per_slate]:
            self._writer.offer(an_impression(event))


def spooled_records(log: Any) -> int:
    """Records that wait on disk for the broker; none where the log keeps no spool."""
    return int(getattr(log, "spooled_events", 0))


def _report_until_input_ends(producer: Producer) -> None:
    ended = threading.Event()

    def listen() -> None:
        for line in sys.stdin:
            producer.n_due = int(line)
        ended.set()

    threading.Thread(target=listen, daemon=True).start()
    while True:
        print(json.dumps(producer.report()), flush=True)
        if ended.wait(REPORT_EVERY_S):
            return


def main() -> None:
    """Produce until everything is acknowledged and the input has ended."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    order = Order(**json.loads(sys.argv[1]))
    producer = Producer(order)
    sending = threading.Thread(target=lambda: asyncio.run(producer.run()), daemon=True)
    sending.start()
    _report_until_input_ends(producer)
    producer.close()


if __name__ == "__main__":
    main()
