"""`python -m tests.chaos.upgrade REVISION`: an old revision replaced by this one under load.

Production's stores of its own. The revision, checked out of git, publishes a bundle and serves; the
present one starts beside it on the same stores, traffic is moved by quarters as a gateway's weights
move it, and the old one is ended. Prints what was measured as JSON; exit code 1 where a request
failed, another bundle answered, an acknowledged event was lost, or a history was not read.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.chaos.whole_stack import CONFIG, Stack
from tests.loop_driver import Loop, wait_for

VIEWED = "i7"
REPOSITORY = Path(__file__).parents[2]
N_CALLERS = 4
VISIT_EVERY_S = 0.25
"""Of one caller: 32 requests a second in all, as far as they are answered in time."""
QUARTER_S = 5.0
READY_TIMEOUT_S = 240.0
_PUBLISH = """
import sys
from pathlib import Path
from recsys.settings_files import load_settings
from tests.bundles_for_tests import publish_small, small_settings
folder = Path(sys.argv[1])
settings = load_settings([Path(sys.argv[2])])
small = settings.model_copy(update={"retrieval": small_settings(folder).retrieval})
publish_small(small, folder / "staging")
"""


@dataclass
class Upgrade:
    """What the run found."""

    revision: str
    seconds: dict[str, float] = field(default_factory=dict)
    n_requests: Counter[str] = field(default_factory=Counter)
    """By who answered: `old`, `new`."""
    failures: Counter[str] = field(default_factory=Counter)
    bundles: set[str] = field(default_factory=set)
    n_lost: int = -1
    n_forgotten: int = -1
    """Users of the old one, from before the new one ran, whose visit the new one does not know."""

    def as_document(self) -> dict[str, object]:
        """What is printed."""
        return {
            "revision": self.revision,
            "seconds": self.seconds,
            "n_requests": dict(self.n_requests),
            "failures": dict(self.failures),
            "bundles": sorted(self.bundles),
            "n_lost": self.n_lost,
            "n_forgotten": self.n_forgotten,
            "broken": self.broken(),
        }

    def broken(self) -> list[str]:
        """Promises that were not kept."""
        found = [f"{what} x{count}" for what, count in self.failures.items()]
        if len(self.bundles) != 1:
            found.append(f"several bundles, or none, answered: {sorted(self.bundles)}")
        if self.n_lost:
            found.append(f"{self.n_lost} acknowledged events lost")
        if self.n_forgotten:
            found.append(f"{self.n_forgotten} of {N_CALLERS} histories of the old one are not read")
        return found + [
            f"{side} answered nothing" for side in ("old", "new") if not self.n_requests[side]
        ]


class Callers:
    """Threads that ask for slates and send events, to the old or the new by a share."""

    def __init__(self, old: Loop, new: Loop, found: Upgrade) -> None:
        self._sides = {"old": old, "new": new}
        self._found = found
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number,)) for number in range(N_CALLERS)
        ]
        self.share = 0.0
        """Of the requests, so many go to the new one."""
        self.acknowledged: set[str] = set()

    def start(self) -> None:
        """Begin to call."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End when what is under way is answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self, number: int) -> None:
        rng = random.Random(number)
        turn = 0
        next_s = time.monotonic()
        while not self._over.is_set():
            side = "new" if rng.random() < self.share else "old"
            try:
                self._visit(self._sides[side], side, f"{number}-{turn}")
            except (httpx.HTTPError, AssertionError) as error:
                with self._lock:
                    self._found.failures[f"{side}: {type(error).__name__} {error}"[:200]] += 1
            turn += 1
            next_s += VISIT_EVERY_S
            self._over.wait(max(0.0, next_s - time.monotonic()))

    def _visit(self, loop: Loop, side: str, name: str) -> None:
        bundle_id = str(loop.recommend(f"u{name}", 5)["bundle_id"])
        event = {"event_id": name, "kind": "view", "user_id": f"u{name}", "item_id": VIEWED}
        ids = loop.post_events(event)
        with self._lock:
            self._found.bundles.add(bundle_id)
            self._found.n_requests[side] += 2
            self.acknowledged.update(ids)


def check_out(revision: str, folder: Path) -> None:
    """The files of a revision, without its history."""
    packed = subprocess.run(
        ["git", "archive", "--format=tar", revision],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as files:
        files.extractall(folder, filter="data")


def old_loop(folder: Path) -> Loop:
    """Commands of the revision, with its own settings of the local stores."""
    source = folder / "source"
    loop = Loop(folder / "old", SERVE__PLAN_POLL_S="0.5", CLUSTER__START_TIMEOUT_S="240")
    loop.directory = source
    loop.environment |= {
        "PYTHONPATH": str(source),
        "FLYWHEEL_CONFIG": str(source / "configs" / CONFIG.name),
    }
    return loop


def run(stack: Stack, found: Upgrade) -> None:
    """Serve by the old, move to the new, end the old."""
    check_out(found.revision, stack.folder / "source")
    stack.start_stores()
    old = old_loop(stack.folder)
    new = Loop(stack.folder / "var", SERVE__PLAN_POLL_S="0.5", CLUSTER__START_TIMEOUT_S="240")
    stack.loop = new
    new.demand_keys()
    old.headers = new.headers
    config = old.environment["FLYWHEEL_CONFIG"]
    subprocess.run(
        [sys.executable, "-c", _PUBLISH, str(stack.folder), config],
        cwd=old.directory, env=old.environment, check=True,
    )  # fmt: skip
    callers = Callers(old, new, found)
    try:
        _up(old, "old", found)
        callers.start()
        _up(new, "new", found)
        for share in (0.25, 0.5, 0.75, 1.0):
            callers.share = share
            time.sleep(QUARTER_S)
        began_s = time.monotonic()
        old.run("down")
        found.seconds["old down"] = round(time.monotonic() - began_s, 1)
        time.sleep(QUARTER_S)
    finally:
        callers.stop()
        with suppress(AssertionError):
            old.run("down")
    stack.acknowledged = callers.acknowledged
    stack.settle("upgraded")
    found.n_lost = stack.measured.n_lost["upgraded"]
    first_visitors = [f"u{number}-0" for number in range(N_CALLERS)]
    found.n_forgotten = sum(not _remembers(new, user_id) for user_id in first_visitors)


def _remembers(loop: Loop, user_id: str) -> bool:
    """Whether the features hold the user's one visit, once."""
    history = loop.run_json("features", "get", user_id)["history"]
    return [event["item_id"] for event in history] == [VIEWED]


def _up(loop: Loop, side: str, found: Upgrade) -> None:
    began_s = time.monotonic()
    loop.run("up", "--wait")
    wait_for(loop.is_ready, f"readiness of the {side} one", READY_TIMEOUT_S)
    found.seconds[f"{side} up"] = round(time.monotonic() - began_s, 1)


def main() -> int:
    """Carry out one upgrade; 0 where every promise was kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.upgrade")
    parser.add_argument(
        "revision", help="what git calls the old one; it has configs/prod-local.toml"
    )
    folder = Path(tempfile.mkdtemp(prefix="flywheel-upgrade-"))
    folder.chmod(0o755)  # Postgres' own user passes through.
    found = Upgrade(parser.parse_args().revision)
    with Stack(folder) as stack:
        try:
            run(stack, found)
        finally:
            print(json.dumps(found.as_document(), indent=1), flush=True)
    if not found.broken():
        shutil.rmtree(folder)
    return 1 if found.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
