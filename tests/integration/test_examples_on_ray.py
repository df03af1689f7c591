"""Examples made by Ray Data equal those of one process, row by row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from recsys.settings import Settings
from tests.example_lake import DAY, HOUR, MINUTE, NOON, a_lake, an_engagement, an_impression
from train_app.examples.example_schema import open_examples
from train_app.examples.example_set import ExampleSources, make_examples
from train_app.examples.examples_on_ray import PartsOnRay

pytestmark = [
    pytest.mark.integration,
    # Ray Data copies its own context with settings that it has deprecated.
    pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.data.*"),
]


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    """A Ray of this test alone."""
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False,
        object_store_memory=100 * 2**20,
    )  # fmt: skip
    yield
    ray.shutdown()


def a_lake_of_two_days(data_dir: Path) -> Settings:
    """Slates and reactions of a dozen users, in two data files of each table."""
    slates, acts = [], []
    for n in range(60):
        at_ms = NOON + n * 40 * MINUTE
        items = [f"i{(n * 7 + place) % 30}" for place in range(8)]
        slates.append(an_impression(f"u{n % 12}", items[:4], at_ms, items[4:6], items[6:]))
        request = f"r-u{n % 12}-{at_ms}" if n % 3 else None
        acts.append(an_engagement(f"u{n % 12}", items[n % 5], at_ms + MINUTE, request_id=request))
    settings = a_lake(data_dir, engagements=acts[:20], impressions=slates[:20])
    a_lake(data_dir, engagements=acts[20:], impressions=slates[20:])
    return settings.model_copy(
        update={"train": settings.train.model_copy(update={"memory_mb": 256, "n_threads": 1})}
    )


def test_parts_on_ray_make_the_same_set_as_one_process(tmp_path: Path, local_ray: None) -> None:
    """Files staged by tasks of their own, three parts by user, three by item; equal counts too."""
    settings = a_lake_of_two_days(tmp_path)
    until_ms = NOON + 2 * DAY - HOUR
    here = make_examples(settings, until_ms=until_ms, out=tmp_path / "here")
    on_ray = PartsOnRay(settings.train)

    def in_three(connection: duckdb.DuckDBPyConnection, sources: ExampleSources) -> Counter[str]:
        return on_ray(connection, replace(sources, rules=replace(sources.rules, n_parts=3)))

    there = make_examples(
        settings, until_ms=until_ms, out=tmp_path / "there", make_parts=in_three
    )  # fmt: skip
    rows = {}
    for name in ("here", "there"):
        table = open_examples(tmp_path / name).to_table()
        rows[name] = sorted(table.to_pylist(), key=lambda row: str(row["example_id"]))
    assert rows["here"] == rows["there"]
    assert len(rows["here"]) > 300
    assert {"shown", "scored", "retrieved", "organic", "random"} == set(here.by_stage)
    assert (here.engagements, here.left_out) == (there.engagements, there.left_out)
    assert len(list((tmp_path / "there").rglob("*.parquet"))) > len(
        list((tmp_path / "here").rglob("*.parquet"))
    )
