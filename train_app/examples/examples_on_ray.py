"""The parts of a set of examples on a Ray cluster, by Ray Data: the same parts, many at once.

Ray Data has no as-of join, so rows are cut by a hash of the user into files that all nodes mount,
and each part is joined by a DuckDB of its own. Knows nothing of what a part does.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import duckdb

from recsys.errors import FleetError
from recsys.learning_settings import TrainSettings
from train_app.examples.example_inputs import (
    StagedParts,
    attach_file,
    stage_engagements,
    stage_impressions,
    stage_late_events,
    stage_pools,
)
from train_app.examples.example_parts import make_item_part, make_user_part
from train_app.examples.example_rules import ExampleRules
from train_app.examples.example_set import VIEWS, ExampleSources
from train_app.examples.join_database import open_joins

_STAGE = {"engagements": stage_engagements, "impressions": stage_impressions}
_LOCAL_OBJECTS_BYTES = 100 * 2**20
Work = Callable[
    [duckdb.DuckDBPyConnection, StagedParts, ExampleRules, dict[str, Any]], Counter[str]
]


class PartsOnRay:
    """Makes parts on the Ray cluster that `RAY_ADDRESS` names, or on one of this machine.

    Lake, `data_dir` and the set's directory must be where every node can reach them under the
    same path or URL. A task that is lost is run again and writes its files anew.

    Args:
        train: memory and threads of each task; `train.n_threads` 0 is one.
    """

    def __init__(self, train: TrainSettings) -> None:
        self._train = train.model_copy(update={"n_threads": train.n_threads or 1})

    def __call__(
        self, connection: duckdb.DuckDBPyConnection, sources: ExampleSources
    ) -> Counter[str]:
        """Stage file by file, then make all user parts, then all item parts.

        Raises:
            FleetError: Ray could not do it.
        """
        parts, rules = sources.parts, sources.rules
        stage_late_events(connection, parts, VIEWS["engagements"], rules.lateness_ms)
        numbers = [{"part": part} for part in range(rules.n_parts)]
        out = [{**number, "out": str(sources.out)} for number in numbers]
        made: Counter[str] = Counter()
        with _on_ray():
            self._run(_files(connection, sources), _stage_file, sources)
            stage_pools(connection, parts, VIEWS["catalogue"], rules)
            made.update(self._run(numbers, _user_part, sources))
            made.update(self._run(out, _item_part, sources))
        return made

    def _run(
        self, tasks: Sequence[dict[str, Any]], work: Work, sources: ExampleSources
    ) -> Counter[str]:
        import ray.data
        from ray.exceptions import RayError

        train, parts, rules = self._train, sources.parts, sources.rules

        def run(task: dict[str, Any]) -> dict[str, Any]:
            with (
                tempfile.TemporaryDirectory(prefix="examples-") as folder,
                open_joins(Path(folder), train) as connection,
            ):
                return {"counts": json.dumps(work(connection, parts, rules, task))}

        total: Counter[str] = Counter()
        if not tasks:
            return total
        try:
            dataset = ray.data.from_items(list(tasks), override_num_blocks=len(tasks)).map(
                run, num_cpus=train.n_threads, memory=train.memory_mb * 10**6
            )
            for row in dataset.iter_rows():
                total.update(json.loads(row["counts"]))
        except RayError as error:
            raise FleetError(
                f"making examples on Ray failed: {error}; check that every node reaches"
                f" {parts.folder} and {sources.out}, or make them on one machine"
            ) from error
        return total


def _files(connection: duckdb.DuckDBPyConnection, sources: ExampleSources) -> list[dict[str, Any]]:
    """One task per data file; a table without any is staged here, as empty parts."""
    tasks = []
    for name, stage in _STAGE.items():
        table = sources.tables.get(name)
        files = [] if table is None else table.files()
        tasks += [
            {"table": name, "uri": uri, "prefix": f"file-{number:06d}"}
            for number, uri in enumerate(files)
        ]
        if not files:
            stage(connection, sources.parts, VIEWS[name], sources.rules)
    return tasks


def _stage_file(
    connection: duckdb.DuckDBPyConnection,
    parts: StagedParts,
    rules: ExampleRules,
    task: dict[str, Any],
) -> Counter[str]:
    attach_file(connection, "lake_file", task["table"], task["uri"])
    _STAGE[task["table"]](connection, parts, "lake_file", rules, task["prefix"])
    return Counter()


def _user_part(
    connection: duckdb.DuckDBPyConnection,
    parts: StagedParts,
    rules: ExampleRules,
    task: dict[str, Any],
) -> Counter[str]:
    return make_user_part(connection, parts, int(task["part"]), rules)


def _item_part(
    connection: duckdb.DuckDBPyConnection,
    parts: StagedParts,
    rules: ExampleRules,
    task: dict[str, Any],
) -> Counter[str]:
    return make_item_part(connection, parts, int(task["part"]), rules, Path(task["out"]))


@contextlib.contextmanager
def _on_ray() -> Generator[None]:
    """A Ray that is up: the one this process has joined, or one joined or started for now."""
    import ray

    if ray.is_initialized():
        yield
        return
    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", log_to_driver=False)
    else:
        ray.init(
            address="local",
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=_LOCAL_OBJECTS_BYTES,
        )
    try:
        yield
    finally:
        ray.shutdown()
