"""`python -m bench.quality --data PATH ...`: import, train and evaluate, from nothing, as a table.

Every data set is imported into a scratch directory of its own and evaluated by the very commands a
user would type; writes `bench/quality.json` and `bench/quality.md` after every evaluation.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.quality_table import machine, markdown
from recsys.errors import DataError, RecsysError
from recsys.settings import Settings

JSON_FILE, MARKDOWN_FILE = Path("bench/quality.json"), Path("bench/quality.md")
PROTOCOLS = ("leave-one-out", "time", "ncf")
_IMPORT_VALUES = ("items", "users", "format", "map", "delimiter", "kind")


@dataclass(frozen=True)
class DataSet:
    """What is imported, and how it is evaluated."""

    name: str
    imports: tuple[tuple[str, ...], ...]
    """Arguments of `import`, one after the other."""
    protocols: tuple[str, ...]
    negatives: str | None
    n_cuts: int
    tunes_baselines: bool = True


def parse_data(spec: str, protocols: Sequence[str], n_cuts: int) -> DataSet:
    """A data set as it stands after `--data`: paths, options of import, and its own protocols."""
    parser = argparse.ArgumentParser(prog="--data", add_help=False)
    parser.add_argument("paths", nargs="+", type=Path)
    for name in _IMPORT_VALUES:
        parser.add_argument(f"--{name}")
    parser.add_argument("--no-header", action="store_true")
    parser.add_argument("--name")
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS)
    parser.add_argument("--negatives")
    parser.add_argument("--cuts", type=int, default=n_cuts)
    parser.add_argument("--no-tune-baselines", action="store_true")
    asked = parser.parse_args(shlex.split(spec))
    options = [
        f"--{name}={getattr(asked, name)}" for name in _IMPORT_VALUES if getattr(asked, name)
    ]
    options += ["--no-header"] if asked.no_header else []
    return DataSet(
        name=asked.name or asked.paths[0].resolve().name,
        imports=tuple((str(path.resolve()), *options) for path in asked.paths),
        protocols=tuple(asked.protocol or protocols),
        negatives=asked.negatives,
        n_cuts=asked.cuts,
        tunes_baselines=not asked.no_tune_baselines,
    )


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.quality", description=__doc__)
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="SPEC",
        help="a path with options of import, in one word; may be given more than once",
    )
    parser.add_argument("--protocol", action="append", choices=PROTOCOLS)
    parser.add_argument("--cuts", type=int, default=1, help="windows of the time protocol")
    parser.add_argument("--seed", action="append", type=int, help="default 0")
    parser.add_argument("--settings", type=Path, help="settings as JSON; data_dir is set here")
    parser.add_argument("--keep", action="store_true", help="keep the file's other tables")
    parser.add_argument("--json", type=Path, default=JSON_FILE)
    parser.add_argument("--markdown", type=Path, default=MARKDOWN_FILE)
    return parser.parse_args(arguments)


def settings_of(path: Path | None, data_dir: Path, seed: int) -> Settings:
    """The settings of one evaluation.

    Raises:
        DataError: the file is no JSON object.
    """
    given: dict[str, Any] = {}
    if path is not None:
        try:
            given = dict(json.loads(path.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"settings {path}: {error}; expected a JSON object") from error
    train = {**given.get("train", {}), "seed": seed}
    return Settings.model_validate({**given, "data_dir": str(data_dir), "train": train})


def measure(
    data: DataSet, seeds: Sequence[int], settings_file: Path | None, scratch: Path
) -> list[dict[str, Any]]:
    """Every protocol and seed of a data set, as the documents of `evaluate`."""
    settings_path = scratch / "settings.json"
    data_dir = scratch / "var"
    found: list[dict[str, Any]] = []
    for seed in seeds:
        settings = settings_of(settings_file, data_dir, seed)
        settings_path.write_text(settings.model_dump_json())
        if not found:
            for one in data.imports:
                run_verb("import", settings_path, one)
        for protocol in data.protocols:
            arguments = ["--protocol", protocol]
            if protocol == "time" and data.n_cuts > 1:
                arguments += ["--cuts", str(data.n_cuts)]
            if protocol == "ncf" and data.negatives is not None:
                arguments += ["--negatives", data.negatives]
            arguments += [] if data.tunes_baselines else ["--no-tune-baselines"]
            began_s = time.monotonic()
            document = run_verb("evaluate", settings_path, arguments)
            run = {
                "data": data.name,
                "protocol": protocol,
                "seed": seed,
                "measured": machine(),
                "wall_s": round(time.monotonic() - began_s, 1),
                "settings": settings.model_dump(
                    mode="json", exclude_defaults=True, exclude={"data_dir"}
                ),
            }
            found.append({**run, "result": document})
    return found


def replaced(
    runs: Sequence[dict[str, Any]], found: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The runs with those found in place of the earlier ones of their data and protocol."""
    new = {(run["data"], run["protocol"]) for run in found}
    return [*(run for run in runs if (run["data"], run["protocol"]) not in new), *found]


def run_verb(verb: str, settings_path: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """One command as a user would type it; its JSON document.

    Raises:
        DataError: it failed; with its last words.
    """
    command = [sys.executable, "-m", "train_app", verb, "--settings", str(settings_path), "--json"]
    print(f"{verb} {shlex.join(arguments)}", file=sys.stderr, flush=True)
    done = subprocess.run([*command, *arguments], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise DataError(f"{verb} {shlex.join(arguments)} ended with {done.returncode}")
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure all data sets; what was measured is on disk after every one."""
    asked = parse_arguments(arguments)
    protocols = asked.protocol or PROTOCOLS[:2]
    data_sets = [parse_data(spec, protocols, asked.cuts) for spec in asked.data]
    document: dict[str, Any] = {"machine": machine(), "runs": []}
    if asked.keep and asked.json.exists():
        document["runs"] = json.loads(asked.json.read_text())["runs"]
    for data in data_sets:
        with tempfile.TemporaryDirectory(prefix="flywheel-quality-") as scratch:
            seeds = asked.seed or [0]
            found = measure(data, seeds, asked.settings, Path(scratch))
        document["runs"] = replaced(document["runs"], found)
        asked.json.write_text(json.dumps(document, indent=1, allow_nan=False) + "\n")
        asked.markdown.write_text(markdown(document))
    print(f"every figure is in {asked.json}, the tables in {asked.markdown}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RecsysError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
