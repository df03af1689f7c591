"""`python -m brokers.stores`, which is `make stores`: all stores of production, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from brokers.broker_ports import why_taken
from brokers.jars import BrokerError
from brokers.stores.local_stores import LocalStores, StorePorts

_WATCH_S = 1.0


def main() -> int:
    """Run the stores; 0 after Ctrl-C, 1 where they cannot run."""
    parser = argparse.ArgumentParser(prog="python -m brokers.stores", description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("var/stores"))
    ports = StorePorts()
    for name in ("kafka", "redis", "postgres", "s3"):
        parser.add_argument(f"--{name}-port", type=int, default=getattr(ports, name))
    options = parser.parse_args()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    wanted = StorePorts(
        options.kafka_port, options.redis_port, options.postgres_port, options.s3_port
    )
    try:
        _check_free(wanted)
        _run(LocalStores(options.directory, wanted, _say), stop)
    except BrokerError as error:
        _say(f"error: {error}")
        return 1
    return 0


def _run(stores: LocalStores, stop: threading.Event) -> None:
    with stores:
        print(
            "The stores are ready. In another terminal:\n\n"
            f"  set -a; . {stores.directory}/environment; set +a\n"
            "  cluster --config configs/prod-local.toml doctor\n"
            "  cluster --config configs/prod-local.toml up --wait\n\n"
            "Ctrl-C stops them; what they keep stays.",
            flush=True,
        )
        while not stop.wait(_WATCH_S):
            dead = stores.dead()
            if dead:
                raise BrokerError(
                    f"{' and '.join(dead)} ended, expected to run; see {stores.directory}/*.log"
                )


def _check_free(ports: StorePorts) -> None:
    listening = (*range(ports.kafka, ports.kafka + 3), ports.redis, ports.postgres, ports.s3)
    for port in listening:
        reason = why_taken(port)
        if reason is not None:
            raise BrokerError(
                f"port {port} of 127.0.0.1 is taken ({reason}), expected it free; stop who "
                "listens there or choose others, see --help"
            )


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
