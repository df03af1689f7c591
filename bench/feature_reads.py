"""Reads of the online features: 50 users in one batch, on each store, and what they take to keep.

`python -m bench.feature_reads` alone; `bench.__main__` prints the same table.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from bench.variants import free_port
from recsys.errors import FleetError
from recsys.settings import Settings
from recsys.stores.features.feature_update import MergedUsers
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.redis_features import redis_keys
from recsys.stores.redis_features.redis_link import RedisLink
from recsys.types import HistoryEvent, UserState

USERS_PER_READ = 50
TARGET_P99_MS = {"sqlite": 2.0, "redis": 4.0}
_USERS_PER_WRITE = 500
_N_ITEMS = 200_000
_KINDS = ("view", "click", "purchase")
_START_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class ReadFigures:
    """What was measured on one store."""

    store: str
    n_users: int
    history: int
    p50_ms: float
    p99_ms: float
    loaded_p99_ms: float
    """While a writer changes users at the same time."""
    cpu_p50_ms: float
    """Processor time of the reading process."""
    decode_p50_ms: float
    """The part of it that makes histories of stored bytes."""
    fill_s: float
    disk_mb: float
    memory_mb: float | None
    """Resident memory of the server; a file has none."""
    used_memory_mb: float | None
    """What the server says its values take."""


def measure(directory: Path, n_users: int, history: int, n_reads: int) -> list[ReadFigures]:
    """Fill each store, read from it; the server only where there is one."""
    settings = Settings(data_dir=directory)
    figures = [_measured(settings, n_users, history, n_reads, server=None)]
    if shutil.which("redis-server") is None:
        return figures
    with _redis_server(directory / "redis") as (url, server):
        features = settings.features.model_copy(
            update={"backend": "redis", "redis_url": url, "redis_timeout_ms": 1000}
        )
        on_redis = settings.model_copy(update={"features": features})
        return [*figures, _measured(on_redis, n_users, history, n_reads, server)]


def show_reads(console: Console, figures: Sequence[ReadFigures]) -> None:
    """Print the table."""
    first = figures[0]
    table = Table(
        title=f"{USERS_PER_READ} users in one read; {first.n_users:,} users with"
        f" {first.history} events"
    )
    columns = ("store", "p50 ms", "p99 ms", "target", "p99 writing", "CPU ms", "decoding")
    for column in (*columns, "disk MB", "memory MB", "values MB"):
        table.add_column(column, justify="left" if column == "store" else "right")
    for run in figures:
        table.add_row(
            run.store,
            f"{run.p50_ms:.2f}",
            f"{run.p99_ms:.2f}",
            f"{TARGET_P99_MS[run.store]:.0f}",
            f"{run.loaded_p99_ms:.2f}",
            f"{run.cpu_p50_ms:.2f}",
            f"{run.decode_p50_ms:.2f}",
            f"{run.disk_mb:,.0f}",
            "-" if run.memory_mb is None else f"{run.memory_mb:,.0f}",
            "-" if run.used_memory_mb is None else f"{run.used_memory_mb:,.0f}",
        )
    console.print(table)


def _measured(
    settings: Settings,
    n_users: int,
    history: int,
    n_reads: int,
    server: psutil.Process | None,
) -> ReadFigures:
    started_s = time.perf_counter()
    _fill(settings, n_users, history)
    fill_s = time.perf_counter() - started_s
    kind = settings.features.backend
    quiet_ms, cpu_ms = _read(settings, n_users, n_reads)
    with _writing(settings, n_users):
        loaded_ms, _ = _read(settings, n_users, n_reads)
    folder = settings.data_dir / "redis" if server else settings.data_dir
    names = folder.rglob("*") if server else folder.glob(f"{settings.feature_path.name}*")
    used_mb = None
    if server:
        link = RedisLink(settings.features.redis_url, "", 10.0)
        (info,) = link.ask([("INFO", "memory")])
        used_mb = int(info.split(b"used_memory:")[1].split()[0]) / 1e6
        link.close()
    return ReadFigures(
        store=kind,
        n_users=n_users,
        history=history,
        p50_ms=quiet_ms[n_reads // 2],
        p99_ms=quiet_ms[n_reads * 99 // 100],
        loaded_p99_ms=loaded_ms[n_reads * 99 // 100],
        cpu_p50_ms=cpu_ms[n_reads // 2],
        decode_p50_ms=_decode(history, n_reads)[n_reads // 2],
        fill_s=fill_s,
        disk_mb=sum(path.stat().st_size for path in names if path.is_file()) / 1e6,
        memory_mb=server.memory_info().rss / 1e6 if server else None,
        used_memory_mb=used_mb,
    )


def _fill(settings: Settings, n_users: int, history: int) -> None:
    writer = open_feature_writer(settings)
    rng = random.Random(0)
    for start in range(0, n_users, _USERS_PER_WRITE):
        user_ids = [f"u{n}" for n in range(start, min(start + _USERS_PER_WRITE, n_users))]
        states = tuple(_state(rng, user_id, history) for user_id in user_ids)
        writer.merge_users(user_ids, _always(MergedUsers(states)))
    writer.close()


def _always(merged: MergedUsers) -> Callable[[object], MergedUsers]:
    return lambda _: merged


def _state(rng: random.Random, user_id: str, history: int) -> UserState:
    now_ms = 1_790_000_000_000
    events = (
        HistoryEvent(
            str(int(_N_ITEMS * rng.random() ** 2)), rng.choice(_KINDS), now_ms + 60_000 * n
        )
        for n in range(history)
    )
    return UserState(user_id, tuple(events), history)


def _read(settings: Settings, n_users: int, n_reads: int) -> tuple[list[float], list[float]]:
    """Wall and processor times of the reads in ms, each shortest first, after a warm-up."""
    reader = open_features(settings)
    rng = random.Random(1)
    wall_ms: list[float] = []
    cpu_ms: list[float] = []
    for _ in range(n_reads + n_reads // 10):
        user_ids = [f"u{rng.randrange(n_users)}" for _ in range(USERS_PER_READ)]
        started_s, cpu_started_s = time.perf_counter(), time.process_time()
        states = reader.read_users(user_ids)
        cpu_ms.append((time.process_time() - cpu_started_s) * 1000)
        wall_ms.append((time.perf_counter() - started_s) * 1000)
        if not all(state.history for state in states):
            raise FleetError("a user that was written was read without a history")
    reader.close()
    return sorted(wall_ms[-n_reads:]), sorted(cpu_ms[-n_reads:])


def _decode(history: int, n_reads: int) -> list[float]:
    """Processor times in ms of decoding one read's values, shortest first."""
    rng = random.Random(3)
    user_ids = [f"u{n}" for n in range(USERS_PER_READ)]
    values = [redis_keys.encode_user(_state(rng, user_id, history)) for user_id in user_ids]
    times_ms: list[float] = []
    for _ in range(n_reads):
        started_s = time.process_time()
        redis_keys.decode_users(user_ids, values)
        times_ms.append((time.process_time() - started_s) * 1000)
    return sorted(times_ms)


@contextmanager
def _writing(settings: Settings, n_users: int) -> Generator[None]:
    """Another process that changes a hundred users ten times a second."""
    command = [sys.executable, "-m", "bench.feature_writes", settings.model_dump_json()]
    writer = subprocess.Popen([*command, str(n_users)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    try:
        if writer.stdout.readline().strip() != b"READY":
            raise FleetError("the writing process did not start; see its error above")
        yield
    finally:
        writer.terminate()
        writer.wait()


@contextmanager
def _redis_server(directory: Path) -> Generator[tuple[str, psutil.Process]]:
    """A redis-server that keeps an append-only file, as it is to be run."""
    directory.mkdir(parents=True)
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    command += ["--dir", str(directory), "--appendonly", "yes", "--logfile", "server.log"]
    server = subprocess.Popen(command)
    try:
        url = f"redis://127.0.0.1:{port}/0"
        give_up_at = time.monotonic() + _START_TIMEOUT_S
        while not _answers(port):
            if time.monotonic() > give_up_at or server.poll() is not None:
                raise FleetError(f"redis-server did not start; see {directory / 'server.log'}")
            time.sleep(0.02)
        yield url, psutil.Process(server.pid)
    finally:
        server.kill()
        server.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def main() -> int:
    """Measure and print; with `--json` one document."""
    parser = argparse.ArgumentParser(prog="python -m bench.feature_reads", description=__doc__)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--history", type=int, default=200)
    parser.add_argument("--reads", type=int, default=3_000)
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        figures = measure(Path(directory), arguments.users, arguments.history, arguments.reads)
    if arguments.json:
        print(json.dumps([asdict(run) for run in figures], indent=2))
    else:
        show_reads(Console(), figures)
    return 0


if __name__ == "__main__":
    sys.exit(main())
