"""`python -m brokers`, which is `make kafka`: brokers to try Flywheel with, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from brokers.broker_ports import why_taken
from brokers.jars import BrokerError, broker_jars, missing_programs
from brokers.kafka_cluster import KafkaCluster

_WATCH_S = 1.0


def main() -> int:
    """Run the brokers; 0 after Ctrl-C, 1 where they cannot run."""
    options = _options()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    try:
        if options.fetch_only:
            broker_jars(_say)
        else:
            _run(options, stop)
    except BrokerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, stop: threading.Event) -> None:
    problem = missing_programs()
    if problem is not None:
        raise BrokerError(problem)
    _check_free(options.port, options.brokers)
    cluster = KafkaCluster(options.brokers, options.directory, port=options.port, say=_say)
    _say(f"starting {options.brokers} broker(s), records in {cluster.directory}")
    with cluster:
        cluster.create_topic(options.topic, options.partitions)
        print(_how_to_use(cluster, options), flush=True)
        while not stop.wait(_WATCH_S):
            if len(cluster.pids) < options.brokers:
                raise BrokerError(
                    f"a broker ended, expected {options.brokers} to run; see "
                    f"{cluster.directory}/broker-*/broker.log"
                )
    _say("stopped; the records stay, start again to go on with them")


def _how_to_use(cluster: KafkaCluster, options: argparse.Namespace) -> str:
    servers = ", ".join(f'"{address}"' for address in cluster.bootstrap_servers)
    return (
        f"Kafka is ready: topic '{options.topic}' with {options.partitions} partitions at "
        f"{', '.join(cluster.bootstrap_servers)}\n\n"
        "In another terminal:\n\n"
        "  export FLYWHEEL__EVENTS__BACKEND=kafka\n"
        f"  export FLYWHEEL__EVENTS__N_PARTITIONS={options.partitions}\n"
        f"  export FLYWHEEL__EVENTS__KAFKA__BOOTSTRAP_SERVERS='[{servers}]'\n"
        f"  export FLYWHEEL__EVENTS__KAFKA__TOPIC={options.topic}\n"
        "  cluster up\n\n"
        "Ctrl-C stops the brokers."
    )


def _check_free(port: int, n_brokers: int) -> None:
    for wanted in range(port, port + n_brokers):
        reason = why_taken(wanted)
        if reason is not None:
            raise BrokerError(
                f"port {wanted} of 127.0.0.1 is taken ({reason}), expected it free; stop who "
                "listens there or choose another with --port"
            )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m brokers", description=__doc__)
    parser.add_argument("--brokers", type=int, choices=(1, 3), default=1)
    parser.add_argument("--port", type=int, default=9092, help="of the first broker")
    parser.add_argument("--topic", default="events")
    parser.add_argument("--partitions", type=int, default=4, help="as events.n_partitions")
    parser.add_argument("--directory", type=Path, default=Path("var/kafka"))
    parser.add_argument("--fetch-only", action="store_true", help="fetch the jars and end")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
