"""Asks a bundle's scorer as serving does: the probabilities of its page, and what a request costs.

Knows bundles through `rankers`; what may be concluded is `gate_guardrails`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from recsys.candidates import best_columns
from recsys.types import NO_ROW, Batch, Item, RowArray, Source
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.evaluation_table import PAGE_LENGTH
from train_app.evaluation.gate_guardrails import Calibration
from train_app.evaluation.rankers import RETRIEVAL_INDEX, BundleParts, BundleRanker
from train_app.examples.interactions import Interactions

MAX_PROBED = 1_024
"""Queries whose probabilities are looked at; ten candidates of each."""
_BATCH = 32
_N_TIMED = 4
_N_ROUNDS = 15
"""Every bundle is timed so often, in turns, and its fastest round counts."""
_MAX_TOKENS = 12
_MAX_NEW_SHARE = 0.5
"""Where more of the catalogue than this is new, new says nothing."""
_MS_PER_DAY = 86_400_000


@dataclass(frozen=True)
class Probed:
    """A bundle to ask."""

    parts: BundleParts
    ranker: BundleRanker
    n_candidates: int
    prefix: str = ""
    """Stands before the names of the ranker's lists."""


def probe_calibration(
    probed: Probed, queries: HeldOut, negative_kinds: Sequence[str]
) -> Calibration:
    """Probabilities of acts on the best `PAGE_LENGTH` candidates of each query, and the acts."""
    actions = _actions(probed.parts, queries.interactions, negative_kinds)
    probabilities, outcomes = [np.zeros(0)], [np.zeros(0, np.bool_)]
    row_of = _bundle_rows(probed, queries.interactions)
    for part in queries.batches(_BATCH):
        asked = _scoring(probed, part)
        scored = probed.parts.scorer("score", asked)
        columns = best_columns(scored["utility"], min(PAGE_LENGTH, asked["rows"].shape[1]))
        rows = np.take_along_axis(asked["rows"], columns, 1)  # [b, K]
        shown = np.take_along_axis(scored["probabilities"], columns[..., None], 1)
        is_target = (rows == row_of[part.targets][:, None]) & (rows >= 0)
        acted = is_target[..., None] & _acts(part)[:, None, actions.kinds]  # [b, K, A]
        usable = np.broadcast_to((rows >= 0)[..., None], acted.shape)
        probabilities.append(np.asarray(shown[..., actions.places][usable], np.float64))
        outcomes.append(acted[usable])
    return Calibration(np.concatenate(probabilities), np.concatenate(outcomes))


def probe_costs(
    bundles: Sequence[Probed], queries: HeldOut, cpu_s: Callable[[], float]
) -> list[float]:
    """Processor time in ms of scoring one request, of each bundle.

    Args:
        cpu_s: seconds of processor time of this process, so that a busy machine does not count.
    """
    parts = list(islice(queries.batches(_BATCH), _N_TIMED))
    n_requests = sum(len(part) for part in parts)
    asked = [[_scoring(probed, part) for part in parts] for probed in bundles]
    fastest = [np.inf] * len(bundles)
    for _ in range(_N_ROUNDS):
        for place, probed in enumerate(bundles):
            began_s = cpu_s()
            for batch in asked[place]:
                probed.parts.scorer("score", batch)
            fastest[place] = min(fastest[place], cpu_s() - began_s)
    return [1000.0 * spent / max(n_requests, 1) for spent in fastest]


def item_tokens(items: Sequence[Item]) -> RowArray:
    """Codes of each item's categories and creator, [N, T], -1 padded."""
    code: dict[tuple[str, str], int] = {}
    tokens = np.full((len(items), _MAX_TOKENS), NO_ROW, np.int32)
    for row, item in enumerate(items):
        named = [("category", name) for name in dict.fromkeys(item.categories)]
        named += [("creator", item.creator)] if item.creator else []
        codes = [code.setdefault(name, len(code)) for name in named[:_MAX_TOKENS]]
        tokens[row, : len(codes)] = codes
    width = max(int((tokens >= 0).sum(1).max(initial=0)), 1)
    return tokens[:, :width]


def new_items(interactions: Interactions, cutoff_ms: int, fresh_days: float) -> NDArray[np.bool_]:
    """Items that appeared within `fresh_days` before the cutoff, [N]; none where that says little.

    By when they were created, or where no item says that, by their first engagement.
    """
    created = np.asarray([item.created_ms or NO_ROW for item in interactions.items], np.int64)
    if not (created > 0).any():
        created = np.full(interactions.n_items, np.iinfo(np.int64).max)
        np.minimum.at(created, interactions.rows, interactions.timestamps_ms)
    is_new = created > cutoff_ms - fresh_days * _MS_PER_DAY
    return is_new if is_new.mean() <= _MAX_NEW_SHARE else np.zeros(len(is_new), np.bool_)


@dataclass(frozen=True)
class _Actions:
    """The positive actions that both the bundle and the data know."""

    places: NDArray[np.int64]  # among the bundle's actions
    kinds: NDArray[np.int64]  # among the data's kinds


def _actions(
    parts: BundleParts, interactions: Interactions, negative_kinds: Sequence[str]
) -> _Actions:
    place = {kind: at for at, kind in enumerate(parts.schema.kinds)}
    shared = [k for k in interactions.kinds if k in place and k not in set(negative_kinds)]
    return _Actions(
        np.asarray([place[kind] for kind in shared], np.int64),
        np.asarray([interactions.kinds.index(kind) for kind in shared], np.int64),
    )


def _acts(queries: HeldOut) -> NDArray[np.bool_]:
    """Which kinds of act the user did on the held-out item, from that engagement on, [q, kinds]."""
    data = queries.interactions
    acts = np.zeros((len(queries), len(data.kinds)), np.bool_)
    ends = data.offsets[queries.users + 1]
    for query, (begin, end) in enumerate(zip(queries.positions, ends, strict=True)):
        on_item = data.rows[begin:end] == data.rows[begin]
        acts[query, data.kind_ids[begin:end][on_item]] = True
    return acts


def _scoring(probed: Probed, queries: HeldOut) -> Batch:
    """What the scorer is asked for the queries: their features and retrieved candidates."""
    lists = probed.ranker(queries)[probed.prefix + RETRIEVAL_INDEX][:, : probed.n_candidates]
    rows = _bundle_rows(probed, queries.interactions)[lists]
    features = probed.ranker.features(queries)
    features["user_emb"] = probed.parts.scorer("encode", features)["user_emb"]
    return {
        **features,
        "rows": rows,
        "sources": np.full(rows.shape, Source.INDEX, np.int8),
        "ranks": np.tile(np.arange(rows.shape[1], dtype=np.int32), (len(rows), 1)),
    }


def _bundle_rows(probed: Probed, interactions: Interactions) -> RowArray:
    """The bundle's row of every item; the last cell answers for -1."""
    row_of = {item_id: row for row, item_id in enumerate(probed.parts.item_ids)}
    rows = [row_of.get(item.item_id, NO_ROW) for item in interactions.items]
    return np.asarray([*rows, NO_ROW], np.int32)
