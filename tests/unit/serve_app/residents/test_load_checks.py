"""What a bundle may cost the replica that loads it: time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.bundles.bundle import BundleFile, Manifest
from recsys.bundles.golden import Golden, check_golden
from recsys.errors import BundleError
from recsys.types import Batch
from serve_app.residents.load_checks import (
    N_ROUNDS,
    Memory,
    Yardsticks,
    _control_group,
    check_room,
    is_too_slow,
    node_memory,
)


class Timed:
    """A stage whose calls take as long as its list says, the last for ever."""

    nbytes = 0

    def __init__(self, spend: Callable[[float], None], *takes_s: float) -> None:
        self._spend = spend
        self._takes_s = list(takes_s)
        self.n_calls = 0

    def __call__(self, method: str, batch: Batch) -> Batch:
        self.n_calls += 1
        self._spend(self._takes_s.pop(0) if len(self._takes_s) > 1 else self._takes_s[0])
        return batch


def arrays(**named: np.ndarray) -> dict[str, object]:
    """As golden answers keep them."""
    return {name: {"dtype": str(a.dtype), "values": a.tolist()} for name, a in named.items()}


GOLDEN: Golden = {"encode": arrays(user_emb=np.ones((2, 3), np.float32))}


class Bench:
    """A clock that moves only while a stage is asked."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.yardsticks = Yardsticks(lambda: self.now_s, max_batch=4)

    def stage(self, *takes_s: float) -> Timed:
        """A stage on this clock."""

        def spend(seconds: float) -> None:
            self.now_s += seconds

        return Timed(spend, *takes_s)


def test_a_stage_ten_times_as_slow_is_refused() -> None:
    """With both times and the bundle it was timed against."""
    bench = Bench()
    stable = bench.stage(0.01)
    bench.yardsticks.keep("b1", "shard-000", stable, GOLDEN)
    slow = bench.stage(0.1)
    with pytest.raises(BundleError, match=r"100.0 ms to search 4 .* 10.0 ms in b1, which answers"):
        bench.yardsticks.check("shard-000", slow, GOLDEN, "b1")
    assert slow.n_calls == N_ROUNDS


def test_a_scorer_with_its_own_towers_is_timed_against_both_steps_of_another() -> None:
    """It encodes the user to score; what it may take is measured by encoding and scoring."""
    golden = GOLDEN | {
        part: arrays(rows=np.ones((2, 3), np.int32)) for part in ("requests", "candidates")
    }
    bench = Bench()
    stable = bench.stage(0.01)
    bench.yardsticks.keep("b1", "scorer", stable, golden)
    bench.yardsticks.check("scorer", bench.stage(0.01, 0.08), golden, "b1", encodes_to_score=True)
    with pytest.raises(BundleError, match="to score 4"):
        bench.yardsticks.check("scorer", bench.stage(0.01, 0.08), golden, "b1")
    with pytest.raises(BundleError, match="to encode 4"):
        bench.yardsticks.check("scorer", bench.stage(0.08), golden, "b1", encodes_to_score=True)


def test_a_busy_node_refuses_nothing() -> None:
    """One good round is proof; what is slow for both is slow for other reasons."""
    bench = Bench()
    stable = bench.stage(0.01)
    bench.yardsticks.keep("b1", "shard-000", stable, GOLDEN)
    bench.yardsticks.check("shard-000", bench.stage(0.5, 0.5, 0.02), GOLDEN, "b1")
    slow_for_all = bench.stage(0.5)
    bench.yardsticks.keep("b2", "shard-000", slow_for_all, GOLDEN)
    bench.yardsticks.check("shard-000", bench.stage(0.9), GOLDEN, "b2")


def test_only_what_answers_users_is_a_yardstick() -> None:
    """Neither a cheap shadow loaded since nor a slow one; what was let go is not kept alive."""
    bench = Bench()
    shards = bench.yardsticks
    shards.check("shard-000", bench.stage(9.0), GOLDEN, None)
    stable, cheap, slow = bench.stage(0.01), bench.stage(0.001), bench.stage(0.4)
    shards.keep("b1", "shard-000", stable, GOLDEN)
    shards.keep("b2", "shard-000", cheap, GOLDEN)
    shards.check("shard-000", bench.stage(0.03), GOLDEN, "b1")
    shards.keep("b3", "shard-000", slow, GOLDEN)
    with pytest.raises(BundleError, match="in b1, which answers"):
        shards.check("shard-000", bench.stage(0.4), GOLDEN, "b1")
    shards.check("shard-001", bench.stage(9.0), GOLDEN, "b1")
    del stable
    shards.check("shard-000", bench.stage(9.0), GOLDEN, "b1")


@pytest.mark.parametrize(
    ("new_s", "beside_s", "expected"),
    [
        (0.10, 0.01, True),
        (0.04, 0.01, False),
        (0.004, 0.0001, False),
        (float("inf"), 0.01, True),
        (0.0, 0.0, False),
    ],
)
def test_too_slow_is_a_ratio_and_a_difference(
    new_s: float, beside_s: float, expected: bool
) -> None:
    """Microseconds have no ratio."""
    assert is_too_slow(new_s, beside_s) is expected


def manifest(**sizes: int) -> Manifest:
    """A manifest of files of so many bytes."""
    files = {
        name.replace("__", "/").replace("_D_", "."): BundleFile("0" * 64, size)
        for name, size in sizes.items()
    }
    return Manifest(
        "b1", "2026-11-22T09:15:00+00:00", files, "0" * 64, {}, "h", ("view",), 1, 1, 8, {}, {}
    )


def test_a_bundle_larger_than_the_room_is_refused() -> None:
    """Only the parts this replica loads count, and the reserve is not room."""
    large = manifest(
        item_vectors_D_safetensors=1_000_000, items_D_parquet=100_000, **{"index__shard-000__x": 50}
    )
    roomy = Memory(free=20_000_000, total=40_000_000)
    check_room(large, ("scorer", "shard-000", "ordering", "gateway"), roomy)
    tight = Memory(free=3_000_000, total=40_000_000)
    with pytest.raises(BundleError, match=r"b1 needs about 3 MB for scorer, .* 1 MB to spare"):
        check_room(large, ("scorer",), tight)
    check_room(large, ("shard-000",), tight)
    check_room(large, ("gateway",), tight)
    carried = manifest(item_vectors_D_safetensors=1, scorer_space__item_vectors_D_safetensors=10**6)
    with pytest.raises(BundleError, match=r"b1 needs about 3 MB for scorer, .* 1 MB to spare"):
        check_room(carried, ("scorer",), tight)
    check_room(carried, ("ordering",), tight)
    with pytest.raises(BundleError, match="0 MB to spare"):
        check_room(large, ("shard-000",), Memory(free=100, total=40_000_000))


def test_a_container_has_the_memory_of_its_group(tmp_path: Path) -> None:
    """File cache can be dropped; no limit is said as `max`."""
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 150\n")
    assert _control_group(tmp_path) == (1000, 550)
    (tmp_path / "memory.max").write_text("max\n")
    assert _control_group(tmp_path) == (None, 0)
    assert _control_group(tmp_path / "none") == (None, 0)
    memory = node_memory()
    assert 0 < memory.free <= memory.total


def scored(utility: list[list[float]], rows: list[list[int]]) -> Golden:
    """Golden answers of a scorer that says this."""
    return {
        "requests": {},
        "encode": {},
        "candidates": arrays(rows=np.asarray(rows, np.int32)),
        "score": arrays(utility=np.asarray(utility, np.float32)),
    }


class Recorded:
    """A scorer that answers what is in its golden file."""

    nbytes = 0

    def __init__(self, utility: list[list[float]]) -> None:
        self._utility = np.asarray(utility, np.float32)

    def __call__(self, method: str, batch: Batch) -> Batch:
        return {"utility": self._utility} if method == "score" else {}


@pytest.mark.parametrize(
    ("utility", "rows", "is_refused"),
    [
        ([[0.5, 0.5], [0.25, 0.25]], [[1, 2], [3, 4]], True),
        ([[0.5, 0.5, -np.inf], [0.25, 0.25, -np.inf]], [[1, 2, -1], [3, 4, -1]], True),
        ([[0.0, 0.0], [0.0, 0.0]], [[1, 2], [3, 4]], True),
        ([[0.5, 0.5], [0.25, 0.26]], [[1, 2], [3, 4]], False),
        ([[0.5, 0.5], [0.25, -np.inf]], [[1, 1], [3, -1]], False),
    ],
)
def test_a_scorer_that_tells_nothing_apart_is_refused(
    utility: list[list[float]], rows: list[list[int]], is_refused: bool
) -> None:
    """Although it answers what it answered when it was made; one candidate proves nothing."""
    golden = scored(utility, rows)
    if not is_refused:
        check_golden("scorer", Recorded(utility), golden)
        return
    with pytest.raises(BundleError, match="same utility"):
        check_golden("scorer", Recorded(utility), golden)
