"""`python -m tests.chaos.whole_stack`: production's stores and the service, killed and restored.

Three brokers, Redis, Postgres and an S3 gateway of its own. Everything is killed with SIGKILL under
events and started again; then Postgres, Redis and the bucket are lost, and a backup is restored.
Prints what was measured as JSON; exit code 1 where a promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType

import duckdb
import httpx

from brokers.broker_ports import free_ports
from brokers.stores.local_stores import LocalStores, StorePorts
from cluster.local.owned_processes import owned_now, read_record
from cluster.local.run_files import RunFiles
from recsys.settings_files import load_settings
from tests.bundles_for_tests import publish_small, small_settings
from tests.loop_driver import Loop, wait_for
from train_app.lake.lake_tables import Lake

CONFIG = Path(__file__).parents[2] / "configs" / "prod-local.toml"
READY_S = 60.0
_SETTLE_S = 240.0
_PARTS = ("kill", "restore")


@dataclass
class Measured:
    """What the run found; seconds, counts and promises."""

    ready_s: dict[str, float] = field(default_factory=dict)
    restored_s: dict[str, float] = field(default_factory=dict)
    n_acknowledged: int = 0
    n_lost: dict[str, int] = field(default_factory=dict)
    bundles: dict[str, str] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)


class Stack:
    """The stores and the service over them in one folder; a context manager, they end with it."""

    def __init__(self, folder: Path) -> None:
        kafka = free_ports(3)
        first = kafka[0]
        redis, postgres, s3 = free_ports(3)
        self.stores = LocalStores(folder / "stores", StorePorts(first, redis, postgres, s3), _say)
        self.folder = folder
        self.measured = Measured()
        self.loop: Loop | None = None
        self.acknowledged: set[str] = set()

    def __enter__(self) -> Stack:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self.loop is not None:
                self.loop.run("down")
        finally:
            self.stores.kill()

    def start_stores(self) -> None:
        """Start them, and let this process and the commands find them."""
        self.stores.start()
        os.environ.update(self.stores.environment)
        os.environ["FLYWHEEL_CONFIG"] = str(CONFIG)

    def publish(self) -> None:
        """A small bundle, first in force once `cluster up` has run."""
        self.loop = self.loop or Loop(self.folder / "var", SERVE__PLAN_POLL_S="0.5")
        settings = load_settings([CONFIG], self.loop.environment)
        shape = small_settings(self.folder / "var")
        small = settings.model_copy(update={"retrieval": shape.retrieval})
        publish_small(small, self.folder / "staging")
        self.loop.demand_keys()

    def up(self, name: str, began_s: float) -> None:
        """Start the service; from `began_s` until it answers is what is measured."""
        assert self.loop is not None
        self.loop.run("up", "--wait")
        wait_for(self.loop.is_ready, "readiness", _SETTLE_S)
        self.measured.ready_s[name] = round(time.monotonic() - began_s, 1)
        self.measured.bundles[name] = str(self.loop.recommend("u1", 5)["bundle_id"])

    def send(self, n_batches: int, name: str) -> None:
        """Events in batches of 50 until so many are acknowledged, or the service is gone."""
        assert self.loop is not None
        for batch in range(n_batches):
            events = [
                {"event_id": f"{name}-{batch}-{n}", "kind": "view", "user_id": f"u{n}",
                 "item_id": f"i{n % 60}"}
                for n in range(50)
            ]  # fmt: skip
            with suppress(httpx.HTTPError, AssertionError):
                self.acknowledged.update(self.loop.post_events(*events))

    def kill_everything(self) -> None:
        """SIGKILL the service's processes, then every store."""
        assert self.loop is not None
        record = read_record(RunFiles(self.folder / "var" / "run").record)
        assert record is not None
        for process in (record.supervisor, *owned_now(record)):
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        self.stores.kill()

    def missing(self) -> set[str]:
        """Acknowledged events that the lake has not got."""
        assert self.loop is not None
        lake = load_settings([CONFIG], self.loop.environment).lake_location
        table = Lake(lake).find("engagements")
        if table is None:
            return set(self.acknowledged)
        connection = duckdb.connect()
        table.attach(connection, "rows")
        rows = connection.execute("SELECT event_id FROM rows").fetchall()
        return self.acknowledged - {str(row[0]) for row in rows}

    def settle(self, name: str) -> None:
        """Wait until the lake has every acknowledged event; count those that it never gets."""
        give_up_s = time.monotonic() + _SETTLE_S
        while self.missing() and time.monotonic() < give_up_s:
            time.sleep(1.0)
        self.measured.n_lost[name] = len(self.missing())

    def lose(self) -> None:
        """Take away Postgres, Redis and the bucket; the brokers keep the log."""
        self.stores.kill()
        for name in ("postgres", "redis", "s3"):
            shutil.rmtree(self.folder / "stores" / name)


def run(stack: Stack, parts: Sequence[str]) -> Measured:
    """Kill, start again; lose, restore."""
    measured = stack.measured
    stack.start_stores()
    stack.publish()
    stack.up("first", time.monotonic())
    stack.send(20, "calm")
    if "kill" in parts:
        _kill_and_start(stack)
    if "restore" in parts:
        _back_up_and_restore(stack)
    measured.n_acknowledged = len(stack.acknowledged)
    _judge(measured)
    return measured


def _kill_and_start(stack: Stack) -> None:
    measured = stack.measured
    under_fire = threading.Thread(target=stack.send, args=(200, "fire"))
    under_fire.start()
    wait_for(lambda: len(stack.acknowledged) > 1_500, "events under fire", _SETTLE_S)
    stack.kill_everything()
    under_fire.join()
    began_s = time.monotonic()
    stack.start_stores()
    measured.ready_s["stores"] = round(time.monotonic() - began_s, 1)
    stack.up("killed", began_s)
    stack.settle("killed")


def _back_up_and_restore(stack: Stack) -> None:
    loop, measured = stack.loop, stack.measured
    assert loop is not None
    place = str(stack.folder / "backup")
    measured.restored_s["backup"] = float(loop.run_json("backup", "create", place)["took_s"])
    stack.send(10, "after the backup")
    loop.run("down")
    stack.lose()
    began_s = time.monotonic()
    stack.start_stores()
    loop.run("backup", "restore", place)
    for part in ("--features", "--evidence"):
        loop.run("events", "replay", part, "--from-lake")
    measured.restored_s["restore"] = round(time.monotonic() - began_s, 1)
    stack.up("restored", began_s)
    stack.settle("restored")


def _judge(measured: Measured) -> None:
    ready_s = measured.ready_s.get("killed", 0.0)
    if ready_s > READY_S:
        measured.broken.append(f"ready after {ready_s} s, expected {READY_S}")
    if len(set(measured.bundles.values())) != 1:
        measured.broken.append(f"other bundles were served: {measured.bundles}")
    measured.broken += [f"{n} events lost, {name}" for name, n in measured.n_lost.items() if n]


def main() -> int:
    """Carry out one run; 0 where every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.whole_stack")
    parser.add_argument("--only", choices=_PARTS, help="one of the two, on the fresh stack")
    only = parser.parse_args().only
    folder = Path(tempfile.mkdtemp(prefix="flywheel-stack-"))
    folder.chmod(0o755)  # Postgres' own user passes through.
    with Stack(folder) as stack:
        try:
            run(stack, (only,) if only else _PARTS)
        finally:
            # Also of a run that was cut short.
            print(json.dumps(asdict(stack.measured), indent=1), flush=True)
    if not stack.measured.broken:
        shutil.rmtree(folder)
    return 1 if stack.measured.broken else 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
