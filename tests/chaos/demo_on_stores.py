"""`python -m tests.chaos.demo_on_stores`: the demo's whole loop on production's stores, keys on.

Three brokers, Redis, Postgres and an S3 gateway of its own; then `cluster demo --once` as a user
runs it, and with `--embedded` once more on embedded stores. Prints the summaries; exit code 1 where
a demo failed or the two ended differently.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests.chaos.whole_stack import Stack
from tests.lane_ports import free_ports
from tests.loop_driver import PORTS


class DemoFailed(Exception):
    """`cluster demo` did not end with exit code 0; it has said why."""


def demo(data_dir: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run the demo on ports of its own; its summary.

    Raises:
        DemoFailed: a step of it did not end as it must.
    """
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    chosen = {"DATA_DIR": str(data_dir), **ports}
    own = {f"FLYWHEEL__{name}": value for name, value in chosen.items()}
    ended = subprocess.run(
        [sys.executable, "-m", "cluster", "--json", "demo", "--once"],
        env={**environment, **own},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise DemoFailed(f"cluster demo ended with exit code {ended.returncode}, expected 0")
    summary: dict[str, Any] = json.loads(ended.stdout)
    return summary


def outcome(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What two runs of the demo have in common, whatever their users clicked on."""
    promoted, aborted = summary["promoted"], summary["aborted"]
    return {
        "facts": sorted(summary),
        "imported": summary["events"]["imported"],
        "failed requests": summary["failed_requests"],
        "promoted": (promoted["phase"], promoted["verdict"]),
        "aborted": (aborted["phase"], aborted["verdict"], aborted["deciding"]),
        "exit code of the refused": summary["refused"]["exit_code"],
        "swaps": len(summary["swaps"]),
    }


def run(folder: Path, *, embedded: bool) -> Iterator[dict[str, Any]]:
    """The summary of the demo on production's stores, then the one on embedded ones.

    Raises:
        DemoFailed: one of them did not end well.
    """
    plain = dict(os.environ)
    with Stack(folder) as stack:
        stack.start_stores()
        yield demo(folder / "var", os.environ)
    if embedded:
        yield demo(folder / "embedded", plain)


def main() -> int:
    """Carry out the demos; 0 where they ended alike."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.demo_on_stores")
    parser.add_argument(
        "--embedded", action="store_true", help="also on embedded stores, to compare"
    )
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="flywheel-demo-"))
    folder.chmod(0o755)  # Postgres' own user passes through.
    endings = []
    try:
        for summary in run(folder, embedded=options.embedded):
            print(json.dumps(summary, indent=1), flush=True)
            endings.append(outcome(summary))
    except DemoFailed as failed:
        print(f"error: {failed}; its files are in {folder}", file=sys.stderr)
        return 1
    if any(ending != endings[0] for ending in endings):
        print(f"error: the demos ended differently: {endings}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
