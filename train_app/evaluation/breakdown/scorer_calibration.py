"""Whether the scorer's probabilities are true: expected calibration error on held-out candidates.

Every scored candidate of a held-out query is one prediction per kind of act; the act happened if
the candidate is the held-out item and the user did so from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from train_app.evaluation.breakdown.report_section import Cell, Section
from train_app.evaluation.breakdown.watched_stages import watched
from train_app.evaluation.evaluation_protocols import HeldOut
from train_app.evaluation.metrics import Interval, Values
from train_app.evaluation.rankers import BundleParts, BundleRanker

N_BINS = 15
MAX_QUERIES = 2_000
_N_RESAMPLES = 200
_BATCH = 64


@dataclass(frozen=True)
class Predictions:
    """Probabilities of acts and whether they happened, P of them."""

    probabilities: Values  # [P]
    happened: NDArray[np.bool_]  # [P]
    users: NDArray[np.int64]  # [P]
    kinds: NDArray[np.int64]  # [P] index into `names`
    names: tuple[str, ...]


@dataclass(frozen=True)
class Reliability:
    """Bins of equally many predictions, least probable first, [K] each."""

    counts: NDArray[np.int64]
    predicted: Values
    happened: Values

    @classmethod
    def of(
        cls, probabilities: Values, happened: NDArray[np.bool_], n_bins: int = N_BINS
    ) -> Reliability:
        """The bins of some predictions."""
        bins = equal_bins(probabilities, n_bins)
        counts = np.bincount(bins, minlength=bins.max(initial=-1) + 1)
        return cls(
            counts,
            np.bincount(bins, probabilities) / counts,
            np.bincount(bins, happened.astype(np.float64)) / counts,
        )

    @property
    def ece(self) -> float:
        """Mean over predictions of |share predicted - share happened| of their bin.

        Naeini, Cooper and Hauskrecht, Obtaining well calibrated probabilities using Bayesian
        binning, AAAI 2015; with bins of equal counts, as most probabilities are near 0.
        """
        gaps = np.abs(self.predicted - self.happened)
        return float(self.counts @ gaps / self.counts.sum()) if len(self.counts) else 0.0


def equal_bins(probabilities: Values, n_bins: int) -> NDArray[np.int64]:
    """The bin of every prediction, [P], by rank; equal probabilities share the lowest of theirs."""
    order = np.sort(probabilities)
    rank = np.searchsorted(order, probabilities)
    bins = rank * n_bins // max(1, len(probabilities))
    return np.unique(bins, return_inverse=True)[1].astype(np.int64)


def predictions_of(
    parts: BundleParts, held_out: HeldOut, n_candidates: int, negative_kinds: Sequence[str]
) -> Predictions:
    """What the scorer says of the candidates of each query, positive kinds only."""
    data = held_out.interactions
    observed, watch = watched(parts)
    ranker = BundleRanker(observed, data, n_candidates)
    row_of = {item_id: row for row, item_id in enumerate(parts.item_ids)}
    bundle_row = np.asarray([row_of.get(item.item_id, -2) for item in data.items], np.int64)
    places = [
        (place, data.kinds.index(kind))
        for place, kind in enumerate(parts.schema.kinds)
        if kind in data.kinds and kind not in negative_kinds
    ]
    columns: list[tuple[Values, NDArray[np.bool_], NDArray[np.int64], NDArray[np.int64]]] = []
    for batch in held_out.batches(_BATCH):
        ranker(batch)
        if watch.scored is None or "probabilities" not in watch.scored:
            continue
        rows = watch.scored["rows"]  # [B, C]
        is_target = rows == bundle_row[batch.targets][:, None]
        usable = rows >= 0
        users = np.broadcast_to(batch.users[:, None], rows.shape)[usable]
        acts = acts_on_target(batch)
        for number, (place, kind) in enumerate(places):
            said = watch.scored["probabilities"][..., place].astype(np.float64)
            did = is_target & acts[:, kind, None]
            kinds = np.full(len(users), number, np.int64)
            columns.append((said[usable], did[usable], users, kinds))
    names = tuple(data.kinds[kind] for _, kind in places)
    if not columns:
        empty = np.zeros(0, np.int64)
        return Predictions(np.zeros(0), np.zeros(0, np.bool_), empty, empty, names)
    said, did, users, kinds = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Predictions(said, did, users, kinds, names)


def calibration_sections(
    parts: BundleParts,
    held_out: HeldOut,
    n_candidates: int,
    negative_kinds: Sequence[str],
    seed: int,
) -> list[Section]:
    """ECE of every kind of act, and the bins of the one that happened most, where there are any."""
    queries = held_out.sample(MAX_QUERIES, seed)
    found = predictions_of(parts, queries, n_candidates, negative_kinds)
    rows: list[tuple[Cell, ...]] = []
    most_frequent: tuple[str, int, Reliability] | None = None
    for number, name in enumerate(found.names):
        of = found.kinds == number
        if not of.any():
            continue
        said, did = found.probabilities[of], found.happened[of]
        reliability = Reliability.of(said, did)
        interval = _interval(said, did, found.users[of], seed)
        rows.append(
            (name, len(said), int(did.sum()), float(said.mean()), float(did.mean()), interval)
        )
        if most_frequent is None or int(did.sum()) > most_frequent[1]:
            most_frequent = (name, int(did.sum()), reliability)
    if most_frequent is None:
        return []
    columns = ("kind", "predictions", "happened", "mean predicted", "share happened", "ECE")
    title = f"calibration of the scorer on the candidates of {len(queries):,} requests"
    return [
        Section("calibration", title, columns, tuple(rows)),
        _bin_section(most_frequent[0], most_frequent[2]),
    ]


def _bin_section(name: str, of: Reliability) -> Section:
    """The bins of one kind of act."""
    bins = enumerate(zip(of.counts, of.predicted, of.happened, strict=True))
    return Section(
        "reliability",
        f"bins of {name}, equally many predictions in each",
        ("bin", "n", "predicted", "share happened", "happened"),
        tuple((place + 1, int(n), float(p), float(h), round(n * h)) for place, (n, p, h) in bins),
    )


def _interval(
    said: Values, did: NDArray[np.bool_], users: NDArray[np.int64], seed: int
) -> Interval:
    """ECE with a normal interval from its spread over resampled users.

    Resampling adds noise to every bin, so percentiles would lie above the estimate.
    """
    _, user = np.unique(users, return_inverse=True)
    bins = equal_bins(said, N_BINS)
    n_users, n_bins = int(user.max()) + 1, int(bins.max()) + 1
    cells = user * n_bins + bins
    shape = (n_users, n_bins)
    counts = np.bincount(cells, minlength=n_users * n_bins).reshape(shape)
    gaps = np.bincount(cells, said - did, n_users * n_bins).reshape(shape)
    times = np.random.default_rng(seed).poisson(1.0, size=(_N_RESAMPLES, n_users))
    drawn = np.maximum((times @ counts).sum(axis=1), 1)
    resampled = np.abs(times @ gaps).sum(axis=1) / drawn
    estimate = Reliability.of(said, did).ece
    spread = 1.96 * float(np.std(resampled))
    return Interval(estimate, max(0.0, estimate - spread), estimate + spread)


def acts_on_target(queries: HeldOut) -> NDArray[np.bool_]:
    """Which kinds of act the user did on the held-out item, from that engagement on, [Q, kinds]."""
    data = queries.interactions
    acts = np.zeros((len(queries), len(data.kinds)), np.bool_)
    ends = data.offsets[queries.users + 1]
    for query, (begin, end) in enumerate(zip(queries.positions, ends, strict=True)):
        on_item = data.rows[begin:end] == data.rows[begin]
        acts[query, data.kind_ids[begin:end][on_item]] = True
    return acts
