"""One replica of a follower as a process of its own, as a Ray actor would hold it.

`python -m tests.chaos.chaos_follower ORDER`; it says how it goes in JSON lines, and ends with its
standard input.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from dataclasses import asdict, dataclass
from typing import Any

from recsys.settings import Settings
from recsys.stores.log.open_log import open_log
from train_app.following.follow_log import FollowLoop
from train_app.following.worker_replica import Worker, open_follower

REPORT_EVERY_S = 0.25


@dataclass(frozen=True)
class FollowOrder:
    """What one replica is to follow."""

    settings: dict[str, Any]
    worker: str
    replica_id: str
    claims_all: bool
    """Follows every partition whatever the others do, as a replica that does not know that it was
    replaced."""

    def as_argument(self) -> str:
        """The order as the program takes it."""
        return json.dumps(asdict(self))


def main() -> None:
    """Follow until the input ends."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("kafka").setLevel(logging.CRITICAL)
    order = FollowOrder(**json.loads(sys.argv[1]))
    settings = Settings.model_validate(order.settings)
    follower: Worker | FollowLoop
    if order.claims_all:
        follower = _claiming_all(settings, order.worker)
    else:
        follower = Worker(settings, order.worker, order.replica_id)
    ended = threading.Event()
    threading.Thread(target=_end_with_input, args=(ended,), daemon=True).start()
    while not ended.wait(REPORT_EVERY_S):
        print(json.dumps(asdict(follower.progress())), flush=True)
    follower.stop()


def _end_with_input(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _claiming_all(settings: Settings, worker: str) -> FollowLoop:
    every = frozenset(range(settings.events.n_partitions))
    return FollowLoop(
        worker,
        lambda: open_follower(worker, open_log(settings), settings),
        lambda: every,
        settings.features.poll_interval_s,
    )


if __name__ == "__main__":
    main()
