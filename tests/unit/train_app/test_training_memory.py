"""The memory benchmark: which stage a line names, and the histories it trains on."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pyarrow.parquet as pq

from bench.synthetic_history import EVENTS_PER_USER, write_history
from bench.training_memory import TreeMemory, parse_arguments, scratch_settings, stage_of
from train_app.progress import PlainProgress


def test_every_line_of_plain_progress_names_its_stage() -> None:
    """As they are written, not as somebody remembers them; what is no progress names none."""
    told = io.StringIO()
    ticks = iter(range(0, 1_000, 20))
    progress = PlainProgress(told, now_s=lambda: float(next(ticks)))
    for share in (0.0, 0.4, 1.0):
        progress("training the towers", share)
    lines = told.getvalue().splitlines()
    assert len(lines) == 3
    assert {stage_of(line) for line in lines} == {"training the towers"}
    assert stage_of("2,000,000 engagements of 20,000 users with 30,000 items") is None


def test_memory_is_sampled_by_stage() -> None:
    """A stage that holds more shows more."""
    memory = TreeMemory(os.getpid(), "before")
    memory.sample()
    held = bytearray(b"x" * (64 << 20))
    memory.enter("holding")
    memory.sample()
    before, holding = memory.end()
    assert len(held) == 64 << 20
    assert 0 < before.peak_mb <= holding.peak_mb


def test_made_up_histories_are_whole_and_the_same_again(tmp_path: Path) -> None:
    """Every user has as many events; popularity is far from even; the seed decides."""
    folder, items = write_history(tmp_path / "one", 30, 500, 7)
    table = pq.read_table(folder)
    counts = table.group_by("user_id").aggregate([("item_id", "count")])
    assert set(counts["item_id_count"].to_pylist()) == {EVENTS_PER_USER}
    known = {line.split(",")[0] for line in items.read_text().splitlines()[1:]}
    by_item = table.group_by("item_id").aggregate([("user_id", "count")])
    assert set(by_item["item_id"].to_pylist()) <= known
    assert max(by_item["user_id_count"].to_pylist()) > 10 * table.num_rows / len(known)
    again, _ = write_history(tmp_path / "two", 30, 500, 7)
    assert pq.read_table(again).equals(table)


def test_the_training_is_cut_short_as_asked(tmp_path: Path) -> None:
    """Memory does not depend on how long it learns."""
    asked = parse_arguments(["--max-steps", "5", "--max-minutes", "0.5"])
    settings = scratch_settings(tmp_path, asked.max_steps, asked.max_minutes, asked.threads)
    assert (settings.train.towers.max_steps, settings.train.scorer.max_minutes) == (5, 0.5)
