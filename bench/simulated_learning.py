"""`python -m bench.simulated_learning`: does learning from a log find what is true?

In simulated worlds the truth is known. Each seed is a world of its own; differences are paired by
world, and intervals (95 %, Student's t) are over worlds. Writes `bench/simulated_learning.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from bench.quality_table import machine
from bench.simulated_drift import DriftResult, measure_drift
from bench.simulated_exposure import ARMS, Exposure, measure_exposure
from bench.simulated_positions import PositionResult, measure_positions
from recsys.errors import RecsysError

JSON_FILE = Path("bench/simulated_learning.json")
_T_QUANTILES = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)
"""97.5 % points of Student's t with 1, 2, ... degrees of freedom."""
_MIN_WIDTH = 130
"""Columns of the table where it goes to a file."""


class Mean(NamedTuple):
    """A mean over worlds with its interval."""

    value: float
    low: float
    high: float

    def text(self) -> str:
        """For a table."""
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


class Row(NamedTuple):
    """One line of the report: what is compared, the two sides by world, and their difference."""

    question: str
    measure: str
    without: str
    with_it: str
    values: tuple[tuple[float, float], ...]

    @property
    def difference(self) -> Mean:
        """Of the second side to the first, paired by world."""
        return mean_over_worlds([after - before for before, after in self.values])


def mean_over_worlds(values: Sequence[float]) -> Mean:
    """The mean of independent values with a 95 % interval by Student's t; two at least."""
    free = len(values) - 1
    quantile = _T_QUANTILES[min(free, len(_T_QUANTILES)) - 1]
    margin = quantile * float(np.std(values, ddof=1)) / len(values) ** 0.5
    mean = float(np.mean(values))
    return Mean(mean, mean - margin, mean + margin)


def position_rows(results: Sequence[PositionResult]) -> list[Row]:
    """What a position head is worth on a log with position bias, and whether it is true."""
    tau, question = "Kendall's tau with the true order", "position bias"
    rows = [
        Row(
            question, tau, "positions left out", "position head",
            tuple((one.naive, one.debiased) for one in results),
        ),
        Row(
            question, tau, "order of retrieval", "position head",
            tuple((one.retrieval, one.debiased) for one in results),
        ),
    ]  # fmt: skip
    for position in results[0].examination:
        pairs = tuple(one.examination[position][::-1] for one in results)
        measure = f"examination of position {position}"
        rows.append(Row(question, measure, "as it is", "as learned", pairs))
    return rows


def drift_rows(results: Sequence[DriftResult]) -> list[Row]:
    """What training on is worth where tastes and items move."""
    names = ("drift", "true NDCG@10, all items"), ("drift", "true NDCG@10, items known to both")
    pairs = (
        tuple((one.stayed, one.warm) for one in results),
        tuple((one.stayed_on_old_items, one.warm_on_old_items) for one in results),
    )
    return [
        Row(*name, "stays", "warm start", pair) for name, pair in zip(names, pairs, strict=True)
    ]


_EXPOSURES: dict[str, Callable[[Exposure], float]] = {
    "share of places": lambda one: one.share,
    "share of new items shown at all": lambda one: one.reached,
}


def exposure_rows(results: Sequence[dict[str, Exposure]]) -> list[Row]:
    """What brings new items onto pages."""
    rows = []
    for measure, share_of in _EXPOSURES.items():
        for arm in list(ARMS)[1:]:
            pairs = tuple((share_of(one["neither"]), share_of(one[arm])) for one in results)
            rows.append(Row("new items", measure, "neither", arm, pairs))
    return rows


def report(rows: Iterable[Row], n_worlds: int) -> Table:
    """The rows for a person."""
    table = Table(title=f"Learning in {n_worlds} simulated worlds", title_justify="left")
    for heading in ("", "measure", "without", "with", "difference, 95 %"):
        table.add_column(heading, justify="right" if heading.startswith("diff") else "left")
    for row in rows:
        before, after = np.mean(row.values, axis=0)
        table.add_row(
            row.question,
            row.measure,
            f"{row.without} {before:.3f}",
            f"{row.with_it} {after:.3f}",
            row.difference.text(),
        )
    return table


def document(rows: Sequence[Row], seeds: Sequence[int]) -> dict[str, Any]:
    """The rows for a program."""
    return {
        "machine": machine(),
        "seeds": list(seeds),
        "rows": [{**row._asdict(), "difference": row.difference._asdict()} for row in rows],
    }


def measure(seeds: Sequence[int], console: Console) -> list[Row]:
    """All three questions, in a world per seed."""
    positions, drifts, exposures = [], [], []
    for seed in seeds:
        console.print(f"world {seed}: position bias", style="dim")
        positions.append(measure_positions(seed, n_slates=15_000))
        with tempfile.TemporaryDirectory(prefix="flywheel-worlds-") as folder:
            console.print(f"world {seed}: drift", style="dim")
            drifts.append(measure_drift(seed, Path(folder) / "drift", 400, 600, epochs=10))
            console.print(f"world {seed}: new items", style="dim")
            exposures.append(measure_exposure(seed, Path(folder) / "new", 400, 600, epochs=10))
    return [*position_rows(positions), *drift_rows(drifts), *exposure_rows(exposures)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure in every world, print the table, write the document."""
    parser = argparse.ArgumentParser(prog="python -m bench.simulated_learning", description=__doc__)
    parser.add_argument("--worlds", type=int, default=5, help="how many, 2 or more; default 5")
    parser.add_argument("--json", type=Path, default=JSON_FILE)
    asked = parser.parse_args(arguments)
    if asked.worlds < 2:
        parser.error(f"--worlds is {asked.worlds}, expected 2 or more: the intervals are over them")
    torch.set_num_threads(1)
    seeds = range(asked.worlds)
    rows = measure(seeds, Console(stderr=True))
    asked.json.write_text(json.dumps(document(rows, seeds), indent=1, allow_nan=False) + "\n")
    console = Console()
    console.width = max(console.width, _MIN_WIDTH)
    console.print(report(rows, asked.worlds))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
