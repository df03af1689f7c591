"""What another bundle would have shown: logged moments ranked again with its own stages.

Live lists, exclusions and shard failures of the moment are not logged, so the bundles that wrote
the log are ranked again first: where they do not come out as logged, no other bundle can either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recsys.bundles.bundle import Manifest, read_manifest
from recsys.bundles.item_table import ItemTable, read_item_codes
from recsys.bundles.registry import bundle_cache, open_registry
from recsys.candidates import CandidateSet, merge_sources, merge_top_k
from recsys.features import FeatureSchema, history_arrays
from recsys.off_policy.ratio_estimate import Values
from recsys.off_policy.reordering import NotInLog, PolicyRatios
from recsys.settings import OrderingSettings, Settings
from recsys.slate import ItemFacts, slate_propensities
from recsys.stages import SCORER, VECTORS_FILE, Stage, load_stage, shard_stage_name
from recsys.types import NO_ROW, Batch, FloatArray, RowArray, Source
from train_app.off_policy.logged_histories import ServedMoment, read_moments
from train_app.off_policy.logged_slates import LoggedSlates
from train_app.off_policy.policy_value import PolicyValue, value_of_ratios

MAX_RESCORED = 5_000
"""Slates that are ranked again, drawn at random."""
MIN_REPRODUCED = 0.9
"""Share of the slates that must come out with the propensities they were logged with."""
TOLERANCE = 0.1
"""How far a reproduced propensity may be from the logged one, as a share of it."""
_BATCH = 128


class OfflinePage:
    """A bundle's page without its live lists: retrieval, scores and the ordering policy."""

    def __init__(self, bundle_dir: Path, ordering: OrderingSettings, settings: Settings) -> None:
        from safetensors.numpy import load_file

        manifest: Manifest = read_manifest(bundle_dir)
        self._ordering = ordering
        self._retrieval = settings.retrieval
        self._schema = FeatureSchema.from_json(dict(manifest.feature_schema))
        self._items = ItemTable.read(bundle_dir)
        codes = read_item_codes(bundle_dir)
        vectors: FloatArray = load_file(bundle_dir / VECTORS_FILE)["vectors"]
        self._facts = ItemFacts(vectors, codes.categories, codes.creators)
        self._scorer: Stage = load_stage(SCORER, bundle_dir, manifest, settings)
        self._shards = [
            load_stage(shard_stage_name(number), bundle_dir, manifest, settings)
            for number in range(manifest.n_shards)
        ]

    def propensities(self, moments: Sequence[ServedMoment], n_positions: int) -> Values:
        """The probability of each logged item at its position given those above, [R, K]."""
        found = np.zeros((len(moments), n_positions))
        for start in range(0, len(moments), _BATCH):
            part = moments[start : start + _BATCH]
            found[start : start + len(part)] = self._of_batch(part, n_positions)
        return found

    def _of_batch(self, moments: Sequence[ServedMoment], n_positions: int) -> Values:
        histories = [moment.history or () for moment in moments]
        features = history_arrays(
            histories,
            self._items.row_of,
            self._schema,
            [moment.timestamp_ms for moment in moments],
        )
        features["user_emb"] = self._scorer("encode", features)["user_emb"]
        seen = [self._items.rows_of([e.item_id for e in history]) for history in histories]
        candidates = self._candidates(features["user_emb"], seen)
        utility = self._utility(features, candidates)
        return slate_propensities(
            utility,
            candidates.rows,
            self._facts,
            self._columns_of(moments, candidates.rows, n_positions),
            self._ordering,
        )

    def _candidates(self, user_emb: FloatArray, seen: Sequence[RowArray]) -> CandidateSet:
        n_candidates = self._retrieval.n_candidates
        query: Batch = {"user_emb": user_emb, "k": np.asarray([n_candidates], np.int32)}
        answers = [shard("search", query) for shard in self._shards]
        width = sum(answer["rows"].shape[1] for answer in answers)
        rows, scores = merge_top_k(
            [answer["rows"] for answer in answers], [answer["scores"] for answer in answers], width
        )
        fresh = self._items.fresh_rows(self._retrieval.fresh_days)[: self._retrieval.n_fresh]
        popular = self._items.popular_rows[: self._retrieval.n_popular]
        extras = [
            (source, np.broadcast_to(own, (len(rows), len(own))))
            for source, own in ((Source.POPULAR, popular), (Source.FRESH, fresh))
        ]
        return merge_sources(rows, scores, extras, seen, ~self._items.available, n_candidates)

    def _utility(self, features: Batch, candidates: CandidateSet) -> FloatArray:
        scored = self._scorer(
            "score",
            {
                **features,
                "rows": candidates.rows,
                "sources": candidates.sources,
                "ranks": candidates.ranks,
            },
        )
        return scored["utility"]

    def _columns_of(
        self, moments: Sequence[ServedMoment], rows: RowArray, n_positions: int
    ) -> RowArray:
        """The columns of the logged items among the candidates; one that is not there ends it.

        An item that this bundle would not have found has no chance, and neither has what follows:
        a column beyond the pool says so, where -1 would end the slate as if it were shorter.
        """
        columns = np.full((len(moments), n_positions), NO_ROW, np.int32)
        for request, moment in enumerate(moments):
            for position, item_id in enumerate(moment.item_ids[:n_positions]):
                row = self._items.row_of.get(item_id, NO_ROW)
                found = np.flatnonzero(rows[request] == row) if row >= 0 else np.zeros(0, np.intp)
                columns[request, position] = found[0] if len(found) else rows.shape[1]
        return columns


@dataclass(frozen=True, slots=True)
class _Rescored:
    """Logged slates whose moments could be made again."""

    slates: LoggedSlates
    moments: Sequence[ServedMoment]


def bundle_value(
    bundle_id: str,
    slates: LoggedSlates,
    orderings: Mapping[str, OrderingSettings],
    settings: Settings,
    target: tuple[Path, OrderingSettings],
    now_ms: int,
    seed: int = 0,
) -> PolicyValue:
    """What another bundle would have earned on a sample of the logged slates.

    Args:
        orderings: the policy of each bundle in the log.
        target: directory and policy of the bundle that is evaluated.

    Raises:
        BundleError: a bundle cannot be loaded.
        StoreError: the lake cannot be read.
    """
    sample = _sample(slates, settings, now_ms, seed)
    reproduced = _reproduced(sample, orderings, settings)
    share = float(reproduced.sum()) / max(min(len(slates), MAX_RESCORED), 1)
    if share < MIN_REPRODUCED:
        return PolicyValue(bundle_id, refusal=_not_reproduced(bundle_id, share))
    kept = sample.slates.of(reproduced)
    moments = [
        moment for moment, is_kept in zip(sample.moments, reproduced, strict=True) if is_kept
    ]
    page = OfflinePage(*target, settings)
    shown = kept.records.is_shown()
    chances = page.propensities(moments, shown.shape[1])
    ratios = np.where(shown, chances / kept.records.propensities, 1.0)
    return value_of_ratios(bundle_id, kept, PolicyRatios(ratios, np.ones(len(kept), np.bool_)))


def _sample(slates: LoggedSlates, settings: Settings, now_ms: int, seed: int) -> _Rescored:
    drawn = np.zeros(len(slates), np.bool_)
    order = np.random.default_rng(seed).permutation(len(slates))
    drawn[order[:MAX_RESCORED]] = True
    part = slates.of(drawn)
    found = read_moments(settings, part.event_ids, now_ms)
    moments = [found.get(str(event_id)) for event_id in part.event_ids]
    known = [moment is not None and moment.history is not None for moment in moments]
    kept = np.asarray(known, np.bool_)
    return _Rescored(part.of(kept), [m for m in moments if m is not None and m.history is not None])


def _reproduced(
    sample: _Rescored, orderings: Mapping[str, OrderingSettings], settings: Settings
) -> np.ndarray:
    """Which slates come out with about the propensities they were logged with, [R]."""
    registry = open_registry(settings)
    slates, found = sample.slates, np.zeros(len(sample.slates), np.bool_)
    for number, bundle_id in enumerate(slates.bundle_ids):
        own = np.flatnonzero(slates.bundles == number)
        if not len(own):
            continue
        directory = registry.fetch(bundle_id, bundle_cache(settings))
        page = OfflinePage(directory, orderings[bundle_id], settings)
        shown = slates.records.is_shown()[own]
        chances = page.propensities([sample.moments[i] for i in own.tolist()], shown.shape[1])
        logged = slates.records.propensities[own]
        is_near = np.abs(chances - logged) <= TOLERANCE * logged
        found[own] = (is_near | ~shown).all(axis=1)
    return found


def _not_reproduced(bundle_id: str, share: float) -> NotInLog:
    return NotInLog(
        f"what bundle {bundle_id} would have shown cannot be told: ranked again with their own"
        f" bundles, {share:.0%} of the logged slates come out with their propensities, at least"
        f" {MIN_REPRODUCED:.0%} expected; live lists and exclusions are not logged, so compare the"
        " bundles in a canary"
    )
