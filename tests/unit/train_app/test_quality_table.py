"""The generator of the quality table: what it runs, and the Markdown it writes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.quality import parse_arguments, parse_data, replaced, settings_of
from bench.quality_table import cell, machine, markdown
from recsys.errors import DataError


def test_a_data_set_is_paths_and_options_of_import(tmp_path: Path) -> None:
    """Every path is imported with the same options; its own protocols replace the shared ones."""
    spec = f"{tmp_path}/a.tsv {tmp_path}/b.tsv --no-header --map user_id=1,item_id=2"
    data = parse_data(f"{spec} --delimiter ' ' --negatives n --protocol ncf", ("time",), 3)
    assert [one[0] for one in data.imports] == [f"{tmp_path}/a.tsv", f"{tmp_path}/b.tsv"]
    assert set(data.imports[0][1:]) == {
        "--no-header",
        "--map=user_id=1,item_id=2",
        "--delimiter= ",
    }
    assert (data.name, data.protocols, data.negatives, data.n_cuts) == ("a.tsv", ("ncf",), "n", 3)
    assert parse_data(str(tmp_path), ("time",), 1).protocols == ("time",)


def test_the_seed_and_the_scratch_directory_are_set_over_the_given_settings(tmp_path: Path) -> None:
    """Everything else stays; a file that is no object is refused."""
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"data_dir": "elsewhere", "train": {"towers": {"epochs": 3}}}))
    settings = settings_of(path, tmp_path / "var", 7)
    assert (settings.data_dir, settings.train.seed) == (tmp_path / "var", 7)
    assert settings.train.towers.epochs == 3
    path.write_text("[1]")
    with pytest.raises(DataError, match="JSON object"):
        settings_of(path, tmp_path, 0)
    assert parse_arguments(["--data", "x", "--seed", "1", "--seed", "2"]).seed == [1, 2]


def test_a_new_table_takes_the_place_of_the_earlier_one_of_its_data_and_protocol() -> None:
    """The others stay with the revision they were measured at."""
    old = [{"data": "a", "protocol": "time", "seed": seed} for seed in (0, 1)]
    other = {"data": "a", "protocol": "ncf", "seed": 0}
    new = {"data": "a", "protocol": "time", "seed": 7}
    assert replaced([*old, other], [new]) == [other, new]


def interval(mean: float) -> dict[str, float]:
    """A metric."""
    return {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}


def a_run(seed: int, mean: float) -> dict[str, Any]:
    """What one evaluation left."""
    return {
        "data": "some",
        "protocol": "time",
        "seed": seed,
        "measured": {"revision": "abc", "measured_at": "2026-11-23"},
        "wall_s": 3.0,
        "settings": {"train": {"seed": seed}},
        "result": {
            "n_queries": 1234,
            "n_users": 56,
            "n_items": 78,
            "training": {"wall_s": 1.0, "cpu_s": 2.0, "peak_mb": 300.0},
            "methods": {"page": {"NDCG@10": interval(mean)}},
            "differences": [
                {"method": "page", "other": "EASE", "metrics": {"NDCG@10": interval(0.05)}}
            ],
            "sections": {"stages": [{"stage": "page", "recall@10": interval(0.5), "n": None}]},
            "notes": ["a note"],
        },
    }


def test_the_report_holds_settings_seeds_time_machine_and_every_table() -> None:
    """One heading per data set and protocol, the seeds side by side."""
    text = markdown({"machine": machine(), "runs": [a_run(0, 0.2), a_run(1, 0.25)]})
    assert text.count("## some, time") == 1
    for words in (
        "1,234 held-out engagements",
        "Seeds 0, 1",
        "Measured at abc, 2026-11-23.",
        '`{"train": {"seed": 0}}`',
        "| page | - | 0.2000 (0.1900 to 0.2100) |",
        "| page - EASE |",
        "| method | seed 0 | seed 1 |",
        "**By stage**",
        "- a note",
    ):
        assert words in text, words


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (3, "3"), (12_345, "12,345"), (0.5, "0.5000"), (12.5, "12.50"), ("x", "x")],
)
def test_a_cell_is_short(value: object, text: str) -> None:
    """Four decimals below 1, fewer above."""
    assert cell(value) == text
