"""`cluster evaluate`: a protocol on the lake's data, with a fresh training or a published bundle.

Trains into a scratch directory under `data_dir/evaluations`, which is removed at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np

from recsys.bundles.registry import Registry, bundle_cache
from recsys.errors import DataError, DataRefused
from recsys.settings import Settings
from train_app.evaluation.evaluate import baseline_rankers, rank, tabulate
from train_app.evaluation.evaluation_protocols import HeldOut, Protocol, hold_out
from train_app.evaluation.evaluation_table import Evaluation
from train_app.evaluation.rankers import PAGE, BundleParts, BundleRanker
from train_app.examples.interactions import Interactions
from train_app.publish import assemble
from train_app.run_directory import RunDirectory, one_at_a_time

MAX_QUERIES = 50_000
"""More held-out engagements are sampled, so that time and memory stay bounded."""

Report = Callable[[str, float], None]


TrainModels = Callable[..., None]
"""`train_joint.train_models`, which writes the model files of a bundle into a directory."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What `cluster evaluate` was asked."""

    protocol: Protocol = "time"
    bundle_id: str | None = None
    """The bundle to evaluate; `None` trains one with the present settings."""
    against: str | None = None
    """A bundle to compare with on the same queries."""


@dataclass(frozen=True)
class _Subject:
    ranker: BundleRanker
    facts: Mapping[str, object] = field(default_factory=dict)


def run_evaluation(
    interactions: Interactions,
    cutoff_ms: int,
    request: EvaluationRequest,
    settings: Settings,
    *,
    train_models: TrainModels,
    report: Report,
) -> Evaluation:
    """Evaluate as asked.

    Args:
        cutoff_ms: where the `time` protocol splits.

    Raises:
        DataRefused: a bundle was trained on engagements of the test part.
        DataError: there is nothing to evaluate.
    """
    seed = settings.train.seed
    held_out = hold_out(
        request.protocol,
        interactions,
        cutoff_ms=cutoff_ms,
        negative_kinds=settings.events.negative_kinds,
        seed=seed,
    )
    n_held_out = len(held_out)
    held_out = held_out.sample(MAX_QUERIES, seed)
    registry = Registry(settings.registry_location)
    rankers = []
    if request.against is not None:
        other = _published(request.against, held_out, registry, settings, f"{request.against} ")
        rankers.append(other.ranker)
    train = held_out.train
    if request.bundle_id is None:
        subject = _trained(train, held_out, settings, train_models, report)
    else:
        subject = _published(request.bundle_id, held_out, registry, settings, "")
    ranked = rank(held_out, [*baseline_rankers(train, settings), subject.ranker, *rankers], report)
    notes = [_source_note(subject)]
    if n_held_out > len(held_out):
        notes.append(f"{len(held_out):,} of {n_held_out:,} held-out engagements, drawn at random")
    return tabulate(
        held_out,
        ranked,
        seed,
        facts=subject.facts,
        notes=notes,
        compared=[(PAGE, f"{request.against} {PAGE}")],
    )


def require_unseen(held_out: HeldOut, bundle_id: str, lineage: Mapping[str, object]) -> None:
    """Refuse a bundle that may have learned from what it is to be evaluated on.

    Raises:
        DataRefused: its lineage does not exclude the held-out engagements.
    """
    until_ms = lineage.get("train_until_ms")
    if not isinstance(until_ms, int):
        raise DataRefused(
            f"bundle {bundle_id} does not say until when it was trained, so nothing proves that "
            "it has not seen the test part; evaluate without a bundle, which trains one"
        )
    times_ms = held_out.interactions.timestamps_ms[held_out.positions]
    n_seen = int((times_ms < until_ms).sum())
    if n_seen:
        raise DataRefused(
            f"bundle {bundle_id} was trained on data until {_iso(until_ms)}, which holds {n_seen} "
            f"of the {len(held_out)} engagements that the {held_out.protocol} protocol tests on; "
            "evaluate without a bundle, which trains on the protocol's training part, or train "
            "one with --until"
        )


def _published(
    bundle_id: str, held_out: HeldOut, registry: Registry, settings: Settings, prefix: str
) -> _Subject:
    manifest = registry.manifest(bundle_id)
    require_unseen(held_out, bundle_id, manifest.lineage)
    directory = registry.fetch(bundle_id, bundle_cache(settings))
    parts = BundleParts.load(directory, manifest, settings)
    return _Subject(_ranker(parts, held_out, settings, prefix), {"bundle_id": bundle_id})


def _ranker(
    parts: BundleParts, held_out: HeldOut, settings: Settings, prefix: str = ""
) -> BundleRanker:
    return BundleRanker(parts, held_out.interactions, settings.retrieval.n_candidates, prefix)


def _trained(
    train: Interactions,
    held_out: HeldOut,
    settings: Settings,
    train_models: TrainModels,
    report: Report,
) -> _Subject:
    if not len(train):
        raise DataError(
            f"the {held_out.protocol} protocol leaves nothing to train on; import more history"
        )
    path = settings.data_dir / "evaluations" / _key(train, settings)
    with one_at_a_time(settings.data_dir / "train.lock", "a training"):
        scratch = RunDirectory(path)
        started_s = perf_counter()
        train_models(train, settings, path / "models", warm_start=None, report=report)
        train_s = perf_counter() - started_s
        draft = assemble(path / "models", path / "bundle", train, settings, report)
        parts = BundleParts.load(path / "bundle", draft, settings)
        scratch.remove()
    return _Subject(
        _ranker(parts, held_out, settings), {"bundle_id": None, "train_s": round(train_s, 1)}
    )


def _source_note(subject: _Subject) -> str:
    bundle_id = subject.facts.get("bundle_id")
    if bundle_id is not None:
        return f"bundle {bundle_id}"
    return f"trained with the present settings in {subject.facts['train_s']} s"


def _key(train: Interactions, settings: Settings) -> str:
    """Names the training: the same data and settings go on where a killed run was."""
    digest = hashlib.sha256(settings.model_dump_json(include={"train", "events"}).encode())
    for column in (train.offsets, train.rows, train.kind_ids, train.timestamps_ms):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def _iso(time_ms: int) -> str:
    return str(np.datetime64(time_ms, "ms"))
