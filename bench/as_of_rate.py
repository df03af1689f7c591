"""How fast, and in how much memory, the as-of join of the examples is, on generated rows.

`python -m bench.as_of_rate` joins a million moments with a million late and corrected values;
`--rows 50000000` does it with more than memory holds. Each join runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from recsys.learning_settings import TrainSettings
from train_app.examples.as_of_join import as_of_join
from train_app.examples.join_database import open_joins, sql_text

MONTH_MS = 30 * 86_400_000
MAX_DELAY_MS = 3_000
ROWS_PER_KEY = 20
BYTES_PER_ROW = 220
"""On disk at the peak, at most: both inputs, what is spilled, and the result."""
SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True)
class JoinFigures:
    """One join: its size, its cost, and that it is whole."""

    n_left: int
    n_right: int
    memory_mb: int
    n_threads: int
    seconds: float
    cpu_s: float
    peak_rss_mb: int
    spilled_mb: int
    n_matched: int


class _Peaks:
    """The largest memory of this process and the largest size of a folder, while it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ended = threading.Event()
        self.rss_bytes = 0
        self.spilled_bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._ended.wait(SAMPLE_S):
            self.rss_bytes = max(self.rss_bytes, process.memory_info().rss)
            self.spilled_bytes = max(self.spilled_bytes, _size(self._folder))

    def end(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()


def join_generated(n_rows: int, train: TrainSettings, folder: Path) -> JoinFigures:
    """Generate both sides as Parquet under `folder`, join them, write the result."""
    left, right, out = (folder / f"{name}.parquet" for name in ("left", "right", "out"))
    _generate(n_rows, train, folder, left, right)
    peaks = _Peaks(folder / "spill")
    started_s, cpu_s = time.perf_counter(), time.process_time()
    with open_joins(folder, train) as connection:
        for view, file in (("moments", left), ("feature_values", right)):
            connection.execute(
                f"CREATE TEMP VIEW {view} AS SELECT * FROM read_parquet({sql_text(file)})"
            )
        joined = as_of_join(
            connection,
            "moments",
            "feature_values",
            by=("user_id",),
            left_time="timestamp_ms",
            right_time="event_ms",
            known_time="known_ms",
            take=("value",),
        )
        joined.write_parquet(str(out))
        seconds = time.perf_counter() - started_s
        cpu_s = time.process_time() - cpu_s
        peaks.end()
        count = f"SELECT count(*), count(value) FROM read_parquet({sql_text(out)})"
        n_out, n_matched = connection.sql(count).fetchall()[0]
        threads = connection.sql("SELECT current_setting('threads')").fetchall()[0][0]
    if n_out != n_rows:
        raise RuntimeError(f"the join gave {n_out} rows, expected the {n_rows} of its left side")
    return JoinFigures(
        n_rows, n_rows, train.memory_mb, int(threads), round(seconds, 2), round(cpu_s, 2),
        peaks.rss_bytes >> 20, peaks.spilled_bytes >> 20, int(n_matched),
    )  # fmt: skip


def _generate(n_rows: int, train: TrainSettings, folder: Path, left: Path, right: Path) -> None:
    """Moments and values of the same users over a month, in no order; values known late."""
    n_keys = max(1, n_rows // ROWS_PER_KEY)
    making = folder / "making"
    making.mkdir()
    with open_joins(making, train) as connection:
        connection.execute(f"""
            COPY (SELECT 'user-' || hash(i) % {n_keys} AS user_id,
                    (hash(i + 7) % {MONTH_MS})::BIGINT AS timestamp_ms, i AS example
                FROM range({n_rows}) moments(i)) TO {sql_text(left)} (FORMAT parquet);
            COPY (SELECT *, event_ms + (hash(value + 99) % {MAX_DELAY_MS})::BIGINT AS known_ms
                FROM (SELECT 'user-' || hash(i + 1) % {n_keys} AS user_id,
                        (hash(i + 77) % {MONTH_MS})::BIGINT AS event_ms, i AS value
                    FROM range({n_rows}) happened(i))) TO {sql_text(right)} (FORMAT parquet)""")
    shutil.rmtree(making)


def _size(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        try:
            total += file.stat().st_size
        except FileNotFoundError:
            continue
    return total


def _measure(n_rows: int, memory_mb: int, n_threads: int, directory: Path, pipe: str) -> None:
    train = TrainSettings(memory_mb=memory_mb, n_threads=n_threads)
    with tempfile.TemporaryDirectory(prefix="as-of-", dir=directory) as folder:
        figures = join_generated(n_rows, train, Path(folder))
    Path(pipe).write_text(json.dumps(asdict(figures)))


def main() -> int:
    """Measure in a process of its own, so that its memory is the join's; print the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.as_of_rate", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="on each side")
    parser.add_argument("--memory-mb", type=int, default=TrainSettings().memory_mb)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    free = shutil.disk_usage(arguments.directory).free
    needed = arguments.rows * BYTES_PER_ROW
    if free < needed:
        print(
            f"error: {arguments.directory} has {free / 1e9:.0f} GB free, expected"
            f" {needed / 1e9:.0f} GB for {arguments.rows:,} rows; choose another --directory",
            file=sys.stderr,
        )
        return 1
    with tempfile.TemporaryDirectory() as told:
        pipe = str(Path(told) / "figures.json")
        process = multiprocessing.get_context("spawn").Process(
            target=_measure,
            args=(
                arguments.rows, arguments.memory_mb, arguments.threads, arguments.directory, pipe,
            ),
        )  # fmt: skip
        process.start()
        process.join()
        if process.exitcode != 0:
            print("error: the join did not end; see above", file=sys.stderr)
            return 1
        figures = JoinFigures(**json.loads(Path(pipe).read_text()))
    if arguments.json:
        print(json.dumps(asdict(figures)))
    else:
        print(
            f"as-of join, {figures.n_left:,} moments x {figures.n_right:,} values:"
            f" {figures.seconds} s ({figures.cpu_s} s of processor, {figures.n_threads} threads),"
            f" peak memory {figures.peak_rss_mb:,} MB at a limit of {figures.memory_mb:,} MB,"
            f" {figures.spilled_mb:,} MB spilled, {figures.n_matched:,} matched"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
