"""One training run, from the lake to a published bundle, in steps that survive a kill.

A run works in `data_dir/training/<key>`; finished steps are skipped when the same run is started
again after it was killed, on the data it began with. The steps' own work is elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recsys.bundles.bundle import Manifest, read_manifest
from recsys.bundles.registry import bundle_cache, open_registry
from recsys.errors import BundleError
from recsys.settings import Settings
from recsys.stores.control.control import ControlReader
from train_app.evaluation.evaluation_run import Report, TrainModels
from train_app.evaluation.gate_evaluation import GateEvaluation, evaluate_for_gate
from train_app.examples.interactions import Interactions
from train_app.learning.divergence import TrainingDiverged
from train_app.learning.warm_start import of_shape
from train_app.publish import (
    assemble,
    code_revision,
    publish_bundle,
    read_draft,
    write_bundle_manifest,
)
from train_app.run_directory import (
    RunDirectory,
    one_at_a_time,
    read_interactions,
    save_interactions,
)

MAX_RESUME_AGE_S = 24 * 3600.0
"""A run that was killed longer ago begins anew, on new data."""
STABLE = "stable"
TRAINING_METRICS_FILE = "training.json"
"""What training measured of itself, beside the models it left."""
_DATA, _TRAINED, _ASSEMBLED = "data", "trained", "assembled"
"""The steps that are not done twice."""
_DIVERGED = "diverged"
"""Says that training ended in numbers that are not finite."""
_MENDING_SETTINGS: Any = {
    "serve": True,
    "cluster": True,
    "schedule": True,
    "train": {
        "precision": True,
        "towers": {"learning_rate"},
        "scorer": {"learning_rate"},
        "warm": {"rate_share"},
    },
}
"""What may be changed for a run that diverged to go on from its checkpoints."""


@dataclass(frozen=True)
class TrainRequest:
    """What `cluster train` was asked."""

    publish: bool = False
    warm_start: bool = False
    until_ms: int | None = None
    """Only engagements before this moment are used."""


@dataclass(frozen=True)
class TrainResult:
    """What a run made."""

    manifest: Manifest | None
    """The published bundle; `None` where that was not asked for, or the gate refused."""
    evaluation: GateEvaluation
    n_engagements: int
    train_s: float
    notes: tuple[str, ...] = field(default=())
    cost: Mapping[str, Any] = field(default_factory=dict)
    """What each phase took; see `phase_clock`."""

    def as_dict(self) -> dict[str, Any]:
        """As one JSON object."""
        return {
            "bundle_id": None if self.manifest is None else self.manifest.bundle_id,
            "published": self.manifest is not None,
            "n_engagements": self.n_engagements,
            "train_s": self.train_s,
            "evaluation": self.evaluation.table.as_dict(),
            "gate": self.evaluation.decision.as_dict(),
            "notes": list(self.notes),
            "cost": self.cost,
        }


@dataclass(frozen=True)
class TrainTools:
    """The parts of a run that are passed in: data, models and clocks."""

    load: Callable[[int | None], Interactions]
    """Reads the checked engagements before a moment, `None` for all; called once per run."""
    cutoff_ms: Callable[[Interactions], int]
    train_models: TrainModels
    report: Report
    say: Callable[[str], None]
    now_s: Callable[[], float] = time.time
    cost: Callable[[], Mapping[str, Any]] = dict
    """What the run has cost so far."""


def run_training(request: TrainRequest, settings: Settings, tools: TrainTools) -> TrainResult:
    """Train, evaluate, decide and, if asked and the gate allows it, publish.

    A refusal is a result too, so that its table can be shown: see
    `GateDecision.require_passed`. Ended runs leave nothing in `data_dir/training`.

    Raises:
        DataRefused: the data checks refused.
        DataError: another training runs on this data directory.
        TrainingDiverged: a loss or gradient is not finite.
    """
    directory = settings.data_dir / "training"
    with one_at_a_time(settings.data_dir / "train.lock", "a training"):
        _adopt_diverged(directory, request, settings)
        run = RunDirectory(directory / run_key(request, settings))
        begun = run.result(_DATA)
        if begun is not None and tools.now_s() - begun["begun_s"] > MAX_RESUME_AGE_S:
            run.clear()
        result = _Run(request, settings, tools, run).result()
        shutil.rmtree(directory, ignore_errors=True)
        return result


def run_key(request: TrainRequest, settings: Settings) -> str:
    """Names a run: asked the same again with the same settings, it goes on where it was."""
    digest = hashlib.sha256(
        settings.model_dump_json(exclude={"serve", "cluster", "schedule", "security"}).encode()
    )
    digest.update(repr((request.warm_start, request.until_ms)).encode())
    return digest.hexdigest()[:16]


def _mendable_key(request: TrainRequest, settings: Settings) -> str:
    """Names a run but for the settings that mend a training that diverged."""
    document = settings.model_dump(mode="json", exclude=_MENDING_SETTINGS)
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    digest.update(repr((request.warm_start, request.until_ms)).encode())
    return digest.hexdigest()[:16]


def _adopt_diverged(directory: Path, request: TrainRequest, settings: Settings) -> None:
    """Let this run go on where one diverged that differs in the mending settings alone."""
    own, mendable = directory / run_key(request, settings), _mendable_key(request, settings)
    for earlier in sorted(directory.glob("*")) if not own.exists() else ():
        found = RunDirectory(earlier).result(_DIVERGED)
        if found is not None and found["mendable"] == mendable:
            earlier.rename(own)
            return


class _Run:
    """The steps of one run in its directory."""

    def __init__(
        self, request: TrainRequest, settings: Settings, tools: TrainTools, run: RunDirectory
    ) -> None:
        self._request = request
        self._settings = settings
        self._tools = tools
        self._run = run
        self._models = run.path / "models"
        self._bundle = run.path / "bundle"
        self._registry = open_registry(settings)
        self._notes: list[str] = []

    def result(self) -> TrainResult:
        interactions = self._data()
        cutoff_ms = self._tools.cutoff_ms(interactions)
        train = interactions.select(interactions.timestamps_ms < cutoff_ms)
        stable_id, stable_dir = self._stable()
        train_s = self._train(train, stable_dir)
        if self._run.result(_ASSEMBLED) is None:
            assemble(self._models, self._bundle, train, self._settings, self._tools.report)
            self._run.finish(_ASSEMBLED, {})
        draft = read_draft(self._bundle, self._settings)
        evaluation = evaluate_for_gate(
            interactions,
            cutoff_ms,
            (self._bundle, draft),
            None if stable_dir is None else (stable_dir, read_manifest(stable_dir)),
            self._settings,
            self._tools.report,
        )
        cost = self._tools.cost()
        manifest = None
        if self._request.publish and evaluation.decision.passed:
            write_bundle_manifest(
                self._bundle,
                draft,
                lineage=self._lineage(interactions, train, cutoff_ms, stable_id),
                metrics={**_bundle_metrics(evaluation, self._models), "cost": cost},
                parents=() if stable_id is None else (stable_id,),
                now=datetime.fromtimestamp(self._tools.now_s(), UTC),
            )
            manifest = publish_bundle(self._bundle, self._registry)
        notes = tuple(self._notes)
        return TrainResult(manifest, evaluation, len(train), train_s, notes, cost)

    def _data(self) -> Interactions:
        """The engagements of this run: read once, then kept."""
        directory = self._run.path / "data"
        if self._run.result(_DATA) is not None:
            self._tools.say("going on with the run that was interrupted, on the data it began with")
            self._notes.append("resumed after an interruption")
            return read_interactions(directory)
        interactions = self._tools.load(self._request.until_ms)
        save_interactions(interactions, directory)
        self._run.finish(_DATA, {"begun_s": self._tools.now_s()})
        return interactions

    def _stable(self) -> tuple[str | None, Path | None]:
        """The stable bundle, if there is one that can be read."""
        stable_id = ControlReader(self._settings.control_url).view().aliases.get(STABLE)
        if stable_id is None:
            return None, None
        try:
            return stable_id, self._registry.fetch(stable_id, bundle_cache(self._settings))
        except BundleError as error:
            note = f"the new bundle is not compared with the stable one: {error}"
            self._tools.say(note)
            self._notes.append(note)
            return None, None

    def _train(self, train: Interactions, stable_dir: Path | None) -> float:
        """Train the models unless they are; the seconds it took."""
        done = self._run.result(_TRAINED)
        if done is None:
            warm_start = stable_dir if self._request.warm_start else None
            if self._request.warm_start and stable_dir is None:
                self._tools.say("there is no stable bundle to start from; training from nothing")
            if warm_start is not None:
                for change in of_shape(self._settings.train.towers, warm_start)[1]:
                    self._tools.say(change)
                    self._notes.append(change)
            started_s = self._tools.now_s()
            try:
                self._tools.train_models(
                    train,
                    self._settings,
                    self._models,
                    warm_start=warm_start,
                    report=self._tools.report,
                )
            except TrainingDiverged:
                mendable = _mendable_key(self._request, self._settings)
                self._run.finish(_DIVERGED, {"mendable": mendable})
                raise
            train_s = round(self._tools.now_s() - started_s, 1)
            done = self._run.finish(_TRAINED, {"train_s": train_s})
        return float(done["train_s"])

    def _lineage(
        self, interactions: Interactions, train: Interactions, cutoff_ms: int, stable: str | None
    ) -> dict[str, object]:
        return {
            **interactions.lineage,
            "code_revision": code_revision(),
            "protocol": "time",
            "train_until_ms": cutoff_ms,
            "n_engagements": len(train),
            "seed": self._settings.train.seed,
            "stable": stable,
            "warm_start": stable if self._request.warm_start else None,
        }


def _bundle_metrics(evaluation: GateEvaluation, models_dir: Path) -> dict[str, object]:
    table = evaluation.table.as_dict()
    measured = models_dir / TRAINING_METRICS_FILE
    return {
        "protocol": table["protocol"],
        "n_queries": table["n_queries"],
        "methods": table["methods"],
        "gate": evaluation.decision.as_dict(),
        "training": json.loads(measured.read_text()) if measured.exists() else {},
    }
