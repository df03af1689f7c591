"""`cluster evaluate`: a protocol on the lake's data, with a fresh training or a published bundle.

Trains into a scratch directory under `data_dir/evaluations`, which is removed at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recsys.bundles.registry import Registry, bundle_cache, open_registry
from recsys.errors import ConfigError, DataError, DataRefused
from recsys.settings import Settings
from train_app.evaluation.breakdown.cost_meter import Cost, CostMeter
from train_app.evaluation.breakdown.evaluation_report import report_of
from train_app.evaluation.evaluation_protocols import HeldOut, Protocol, hold_out
from train_app.evaluation.evaluation_table import Evaluation
from train_app.evaluation.rankers import BundleParts
from train_app.evaluation.rivals.rank_all_methods import CutResult, Subject, rank_all_methods
from train_app.evaluation.rivals.rival_grids import RIVALS, Rival
from train_app.evaluation.splits.cut_points import Cut, cut_points
from train_app.evaluation.splits.fixed_negatives import hold_out_named, read_negatives
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
    n_cuts: int = 1
    """`time` only: so many windows, each with a training of its own."""
    negatives: Path | None = None
    """`ncf` only: a file that names what is held out and what it is ranked among."""
    tune_baselines: bool = True


@dataclass(frozen=True)
class EvaluationTools:
    """The parts of an evaluation that are passed in."""

    train_models: TrainModels
    report: Report
    devices: Callable[[HeldOut], Sequence[str]] | None = None
    """The device of every query, "" where it is not known."""
    rivals: Sequence[Rival] = field(default=RIVALS)


def run_evaluation(
    interactions: Interactions,
    request: EvaluationRequest,
    settings: Settings,
    tools: EvaluationTools,
) -> Evaluation:
    """Evaluate as asked.

    Raises:
        ConfigError: an option does not go with the protocol.
        DataRefused: a bundle was trained on engagements of the test part.
        DataError: there is nothing to evaluate.
    """
    with CostMeter() as meter:
        held_outs, notes = _held_outs(interactions, request, settings)
        results = []
        for held_out in held_outs:
            sample = held_out.sample(MAX_QUERIES // len(held_outs), settings.train.seed)
            if len(sample) < len(held_out):
                notes.append(
                    f"{len(sample):,} of {len(held_out):,} held-out engagements, drawn at random"
                )
            results.append(_evaluated(sample, held_out, request, settings, tools))
        evaluation = report_of(results, request.against, settings, notes)
    return evaluation.with_facts(cost=meter.cost.as_dict())


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


def _held_outs(
    interactions: Interactions, request: EvaluationRequest, settings: Settings
) -> tuple[list[HeldOut], list[str]]:
    """What each training is tested on, and what a reader must know of that."""
    if request.n_cuts > 1 and request.protocol != "time":
        raise ConfigError(f"--cuts goes with --protocol time, found {request.protocol}")
    if request.negatives is not None:
        if request.protocol != "ncf":
            raise ConfigError(f"--negatives goes with --protocol ncf, found {request.protocol}")
        named = read_negatives(request.negatives)
        return [hold_out_named(interactions, named, request.negatives)], []
    seed, negative_kinds = settings.train.seed, settings.events.negative_kinds
    if request.protocol != "time":
        found = hold_out(
            request.protocol, interactions, cutoff_ms=0, negative_kinds=negative_kinds, seed=seed
        )
        return [found], []
    cuts = cut_points(interactions, settings.train.holdout_share, request.n_cuts)
    notes = [] if len(cuts) == request.n_cuts else [f"only {len(cuts)} cuts differ in time"]
    held_outs, empty = _cut_held_outs(interactions, cuts, negative_kinds, seed)
    if len(cuts) == 1:
        return held_outs, notes
    kept, refused = _unseen_cuts(held_outs, request, settings)
    return kept, [*notes, *empty, *refused]


def _cut_held_outs(
    interactions: Interactions, cuts: Sequence[Cut], negative_kinds: tuple[str, ...], seed: int
) -> tuple[list[HeldOut], list[str]]:
    """What every cut is tested on, and which cuts have nothing to evaluate.

    Raises:
        DataError: none has.
    """
    kept: list[HeldOut] = []
    refusals: list[DataError] = []
    for cut in cuts:
        try:
            held_out = hold_out(
                "time",
                interactions,
                cutoff_ms=cut.from_ms,
                until_ms=cut.until_ms,
                negative_kinds=negative_kinds,
                seed=seed,
            )
        except DataError as error:
            refusals.append(error)
        else:
            kept.append(held_out)
    if not kept:
        raise refusals[-1]
    return kept, [f"a cut is left out: {error}" for error in refusals]


def _unseen_cuts(
    held_outs: list[HeldOut], request: EvaluationRequest, settings: Settings
) -> tuple[list[HeldOut], list[str]]:
    """The cuts that the lineage of every named bundle excludes.

    Raises:
        DataRefused: there is none.
    """
    named = [bundle for bundle in (request.bundle_id, request.against) if bundle is not None]
    registry = open_registry(settings)
    lineages = {bundle: registry.manifest(bundle).lineage for bundle in named}
    kept, refusals = [], []
    for held_out in held_outs:
        try:
            for bundle, lineage in lineages.items():
                require_unseen(held_out, bundle, lineage)
        except DataRefused as error:
            refusals.append(error)
        else:
            kept.append(held_out)
    if not kept:
        raise refusals[-1]
    return kept, [f"a cut is left out: {error}" for error in refusals]


def _evaluated(
    held_out: HeldOut,
    whole: HeldOut,
    request: EvaluationRequest,
    settings: Settings,
    tools: EvaluationTools,
) -> CutResult:
    registry = open_registry(settings)
    others = []
    if request.against is not None:
        others.append(_published(request.against, held_out, registry, settings))
    if request.bundle_id is None:
        subject = _trained(held_out, settings, tools)
    else:
        subject = _published(request.bundle_id, held_out, registry, settings)
    return rank_all_methods(
        held_out,
        whole,
        subject,
        others,
        settings,
        tune=request.tune_baselines,
        rivals=tools.rivals,
        devices=None if tools.devices is None else tools.devices(held_out),
        report=tools.report,
    )


def _published(
    bundle_id: str, held_out: HeldOut, registry: Registry, settings: Settings
) -> Subject:
    manifest = registry.manifest(bundle_id)
    require_unseen(held_out, bundle_id, manifest.lineage)
    directory = registry.fetch(bundle_id, bundle_cache(settings))
    return Subject(bundle_id, BundleParts.load(directory, manifest, settings), None)


def _trained(held_out: HeldOut, settings: Settings, tools: EvaluationTools) -> Subject:
    train = held_out.train
    if not len(train):
        raise DataError(
            f"the {held_out.protocol} protocol leaves nothing to train on; import more history"
        )
    path = settings.data_dir / "evaluations" / _key(train, settings)
    with one_at_a_time(settings.data_dir / "train.lock", "a training"):
        scratch = RunDirectory(path)
        with CostMeter() as meter:
            tools.train_models(
                train, settings, path / "models", warm_start=None, report=tools.report
            )
        draft = assemble(path / "models", path / "bundle", train, settings, tools.report)
        parts = BundleParts.load(path / "bundle", draft, settings)
        scratch.remove()
    return Subject(None, parts, _rounded(meter.cost))


def _rounded(cost: Cost) -> Cost:
    return Cost(round(cost.cpu_s, 1), round(cost.wall_s, 1), round(cost.peak_mb, 1))


def _key(train: Interactions, settings: Settings) -> str:
    """Names the training: the same data and settings go on where a killed run was."""
    digest = hashlib.sha256(settings.model_dump_json(include={"train", "events"}).encode())
    for column in (train.offsets, train.rows, train.kind_ids, train.timestamps_ms):
        digest.update(column.tobytes())
    return digest.hexdigest()[:16]


def _iso(time_ms: int) -> str:
    return str(np.datetime64(time_ms, "ms"))
