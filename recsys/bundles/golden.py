"""Golden requests: what a bundle answered when it was made, checked again wherever it is loaded.

Written once into `golden.json` of a bundle; a replica whose stage answers otherwise is refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.bundles.item_table import ItemTable
from recsys.errors import BundleCorrupt, BundleError
from recsys.features import FeatureSchema, history_arrays
from recsys.settings import Settings
from recsys.stages import (
    ORDERING,
    SCORER,
    BundleFacts,
    Stage,
    load_stage,
    shard_stage_name,
)
from recsys.types import NO_ROW, Batch, HistoryEvent, RowArray, Source

GOLDEN_FILE = "golden.json"
N_REQUESTS = 8
N_FOUND = 20
"""Items each shard is asked for."""
SLATE_LENGTH = 10
AGE_OF_NEWEST_MS = 60_000
RELATIVE_TOLERANCE = 2e-3
"""Of the largest expected magnitude: above the float noise of another processor or thread count,
below any change of weights that matters."""
MIN_SPREAD = 1e-6
"""Of the largest utility: what float noise alone spreads equal estimates by."""
MIN_OVERLAP = 0.9
"""Approximate search may swap near ties on another processor; it may not find other items."""

Golden = dict[str, Any]


def make_golden(
    bundle_dir: Path,
    facts: BundleFacts,
    settings: Settings,
    histories: Sequence[Sequence[HistoryEvent]],
) -> None:
    """Write `golden.json` from the stages in a staging directory.

    Args:
        bundle_dir: holds every other file of the bundle except the manifest.
        facts: the draft of its manifest.
        histories: real histories, oldest event first; the first seven are used, and an empty one.

    Raises:
        BundleError: a stage answers with a number that is not finite.
    """
    schema = FeatureSchema.from_json(dict(facts.feature_schema))
    row_of = ItemTable.read(bundle_dir).row_of
    requests: list[Sequence[HistoryEvent]] = [*histories[: N_REQUESTS - 1], ()]
    now_ms = [AGE_OF_NEWEST_MS + (past[-1].timestamp_ms if past else 0) for past in requests]
    features = history_arrays(requests, row_of, schema, now_ms)
    _write_answers(bundle_dir, facts, settings, features)


def remake_golden(bundle_dir: Path, facts: BundleFacts, settings: Settings, golden: Golden) -> None:
    """Write `golden.json` of a bundle that shares its towers, index and item table with another.

    Args:
        bundle_dir: as for `make_golden`.
        golden: the other's; its requests are asked, and retrieval must answer as it did there.

    Raises:
        BundleError: retrieval answers otherwise, or a stage with a number that is not finite.
    """
    _write_answers(bundle_dir, facts, settings, _from_json(golden["requests"]))
    answered = read_golden(bundle_dir)
    _compare("scorer encode", _from_json(answered["encode"]), _from_json(golden["encode"]))
    for name, found in answered["search"].items():
        _compare_found(name, _from_json(found), _from_json(golden["search"][name]))


def _write_answers(
    bundle_dir: Path, facts: BundleFacts, settings: Settings, features: Batch
) -> None:
    scorer = load_stage(SCORER, bundle_dir, facts, settings)
    encoded = scorer("encode", features)
    query = {**encoded, "k": np.asarray([N_FOUND], np.int32)}
    found = {
        name: load_stage(name, bundle_dir, facts, settings)("search", query)
        for name in map(shard_stage_name, range(facts.n_shards))
    }
    candidates = _candidates([answer["rows"] for answer in found.values()])
    scored = scorer("score", {**features, **encoded, **candidates})
    golden = {
        "version": 1,
        "requests": _to_json(features),
        "encode": _to_json(encoded),
        "search": {name: _to_json(answer) for name, answer in found.items()},
        "candidates": _to_json(candidates),
        "score": _to_json(scored),
    }
    check_golden(SCORER, scorer, golden)
    path = bundle_dir / GOLDEN_FILE
    path.write_text(json.dumps(golden, allow_nan=False), encoding="utf-8")


def read_golden(bundle_dir: Path) -> Golden:
    """The golden requests and answers of a bundle directory.

    Raises:
        BundleCorrupt: the file is missing or is not such a document.
    """
    path = bundle_dir / GOLDEN_FILE
    try:
        golden: Golden = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BundleCorrupt(f"{path} cannot be read: {error}") from error
    missing = {"requests", "encode", "search", "candidates", "score"} - set(golden)
    if missing:
        raise BundleCorrupt(f"{path} lacks {', '.join(sorted(missing))}; publish the bundle again")
    return golden


def check_golden(stage_name: str, stage: Stage, golden: Golden) -> None:
    """Ask a loaded stage the golden requests.

    Raises:
        BundleError: it names the stage, the method and the array that differs, and by how much.
    """
    encoded = _from_json(golden["encode"])
    if stage_name == SCORER:
        features = _from_json(golden["requests"])
        candidates = _from_json(golden["candidates"])
        _compare("scorer encode", stage("encode", features), encoded)
        scored = stage("score", {**features, **encoded, **candidates})
        _compare("scorer score", scored, _from_json(golden["score"]), candidates["rows"])
        _check_spread(scored["utility"], candidates["rows"])
    elif stage_name == ORDERING:
        _check_slates(stage, golden)
    elif stage_name in golden["search"]:
        query = {**encoded, "k": np.asarray([N_FOUND], np.int32)}
        expected = _from_json(golden["search"][stage_name])
        _compare_found(stage_name, stage("search", query), expected)
    else:
        raise BundleError(f"golden answers have no stage {stage_name}; publish the bundle again")


def warm_up_batch(method: str, golden: Golden, n_requests: int) -> Batch:
    """A batch of `n_requests` golden requests for `encode`, `search`, `score` or `order`."""
    parts: dict[str, tuple[str, ...]] = {
        "encode": ("requests",),
        "search": ("encode",),
        "score": ("requests", "encode", "candidates"),
        "order": ("candidates", "score"),
    }
    batch: Batch = {}
    for part in parts[method]:
        batch |= _from_json(golden[part])
    repeated = {
        name: np.resize(array, (n_requests, *array.shape[1:])) for name, array in batch.items()
    }
    if method == "search":
        repeated["k"] = np.asarray([N_FOUND], np.int32)
    if method == "order":
        repeated["k"] = np.full(n_requests, SLATE_LENGTH, np.int32)
        repeated["seeds"] = np.arange(n_requests, dtype=np.uint64)
        repeated = {name: repeated[name] for name in ("rows", "utility", "k", "seeds")}
    return repeated


def _candidates(found: Sequence[RowArray]) -> Batch:
    rows = np.concatenate(found, axis=1).astype(np.int32)
    ranks = np.broadcast_to(np.arange(rows.shape[1], dtype=np.int32), rows.shape)
    return {
        "rows": rows,
        "sources": np.full(rows.shape, Source.INDEX, np.int8),
        "ranks": np.ascontiguousarray(ranks),
    }


def _compare(
    what: str, answer: Batch, expected: Batch, rows: NDArray[np.int32] | None = None
) -> None:
    for name, wanted in expected.items():
        got = answer.get(name)
        if got is None or got.shape != wanted.shape:
            shape = None if got is None else got.shape
            raise BundleError(f"{what} answers {name} of shape {shape}, golden is {wanted.shape}")
        # Padding scores -inf on both sides; it takes no part in the comparison.
        used = np.ones(got.shape[:2], np.bool_) if rows is None else rows >= 0
        _compare_numbers(f"{what}: {name}", got[used], wanted[used])


def _compare_numbers(what: str, got: NDArray[Any], wanted: NDArray[Any]) -> None:
    if not (np.isfinite(got).all() and np.isfinite(wanted).all()):
        raise BundleError(f"{what} has numbers that are not finite; the bundle cannot be served")
    if not got.size:
        return
    allowed = RELATIVE_TOLERANCE * max(float(np.abs(wanted).max()), 1e-3)
    difference = float(np.abs(got - wanted).max())
    if difference > allowed:
        raise BundleError(
            f"{what} differs from the golden answer by {difference:.3g}, allowed {allowed:.3g}; "
            "the bundle's files do not belong together or this machine computes otherwise"
        )


def _check_spread(utility: NDArray[np.float32], rows: RowArray) -> None:
    """Refuse a scorer that tells no candidate from another, whatever its golden answers say."""
    judged = [
        values[found >= 0]
        for values, found in zip(utility, rows, strict=True)
        if len(np.unique(found[found >= 0])) > 1
    ]
    flat = [np.ptp(values) <= MIN_SPREAD * np.abs(values).max() for values in judged]
    if judged and all(flat):
        raise BundleError(
            f"scorer answers the same utility ({float(judged[0][0]):.6g}) for every candidate of "
            f"all {len(judged)} golden requests, expected it to tell them apart; train it again"
        )


def _compare_found(stage_name: str, answer: Batch, expected: Batch) -> None:
    if answer["rows"].shape != expected["rows"].shape:
        raise BundleError(
            f"{stage_name} search answers rows of shape {answer['rows'].shape}, "
            f"golden is {expected['rows'].shape}"
        )
    shared = n_expected = 0
    for got, wanted in zip(answer["rows"], expected["rows"], strict=True):
        wanted_rows = wanted[wanted >= 0]
        n_expected += len(wanted_rows)
        shared += len(np.intersect1d(got, wanted_rows))
    if shared < MIN_OVERLAP * n_expected:
        raise BundleError(
            f"{stage_name} finds {shared} of {n_expected} golden items, expected at least "
            f"{MIN_OVERLAP:.0%}; its index does not belong to this bundle"
        )
    both = (answer["rows"] >= 0) & (answer["rows"] == expected["rows"])
    _compare_numbers(
        f"{stage_name} search: scores", answer["scores"][both], expected["scores"][both]
    )


def _check_slates(stage: Stage, golden: Golden) -> None:
    """Ordering is settings and a seed, so its answer is checked for sense, not for equality."""
    n_requests = len(golden["requests"]["items"]["values"])
    batch = warm_up_batch("order", golden, n_requests)
    answer = stage("order", batch)
    for rows, picked in zip(batch["rows"], answer["picked"], strict=True):
        shown = picked[picked >= 0]
        if len(np.unique(shown)) != len(shown) or (rows[shown] == NO_ROW).any():
            raise BundleError("ordering answers a slate with an item twice or with padding")
    propensity = answer["propensity"][answer["picked"] >= 0]
    if not ((propensity > 0) & (propensity <= 1 + 1e-6)).all():
        raise BundleError("ordering answers a propensity outside 0..1")


def _to_json(batch: Batch) -> dict[str, Any]:
    """Arrays as lists; -inf, which JSON has not, is null."""
    return {
        name: {"dtype": str(array.dtype), "values": _finite_or_none(array.tolist())}
        for name, array in batch.items()
    }


def _from_json(document: dict[str, Any]) -> Batch:
    batch: Batch = {}
    for name, entry in document.items():
        dtype = np.dtype(entry["dtype"])
        if dtype.kind == "f":
            array = np.asarray(entry["values"], dtype=np.float64)
            batch[name] = np.where(np.isnan(array), -np.inf, array).astype(dtype)
        else:
            batch[name] = np.asarray(entry["values"], dtype=dtype)
    return batch


def _finite_or_none(values: Any) -> Any:
    if isinstance(values, list):
        return [_finite_or_none(value) for value in values]
    if isinstance(values, float) and values == float("-inf"):
        return None
    return values
