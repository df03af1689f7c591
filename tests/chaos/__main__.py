"""`python -m tests.chaos`, which is `make test-events-chaos`: the failure run at full size.

Prints what it does and a report; exits with 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import logging
import shutil
import sys
import tempfile
import time
from pathlib import Path

from brokers.jars import BrokerError
from tests.chaos.chaos_plan import ChaosPlan
from tests.chaos.chaos_run import ChaosRun
from tests.chaos.chaos_verdict import judge, report_lines


def main() -> int:
    """Carry out one run; 0 where every promise was kept."""
    options = _options()
    features = options.features or ("sqlite", "redis")[options.seed % 2]
    plan = full_plan(options.seed, options.events, features)
    directory = Path(tempfile.mkdtemp(prefix="flywheel-chaos-"))
    logging.basicConfig(filename=directory / "chaos.log", level=logging.WARNING)
    _say(f"seed {plan.seed}; what the processes say is in {directory}")
    try:
        with ChaosRun(plan, directory, _say) as run:
            findings = judge(plan, run.execute())
    except BrokerError as error:
        _say(f"error: {error}")
        return 1
    holds = all(finding.holds for finding in findings)
    print("\n".join(report_lines(plan, findings)), flush=True)
    if holds and not options.keep:
        shutil.rmtree(directory)
    return 0 if holds else 1


def full_plan(seed: int, n_events: int, features: str) -> ChaosPlan:
    """Three brokers, and everything killed at least as often as promised."""
    return ChaosPlan(
        seed=seed,
        backend="kafka",
        n_brokers=3,
        n_events=n_events,
        produce_s=240.0,
        n_broker_kills=5,
        n_archiver_kills=10,
        n_feature_kills=10,
        n_evidence_kills=10,
        n_producer_kills=4,
        cut_s=30.0,
        features=features,
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
    parser.add_argument("--events", type=int, default=120_000)
    parser.add_argument(
        "--features", choices=("sqlite", "redis"), help="their store; by default the seed decides"
    )
    parser.add_argument("--keep", action="store_true", help="keep the run's directory")
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
