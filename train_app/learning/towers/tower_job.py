"""One tower training as a value that can be written down and run in any process.

Knows the files of a job and how to start, resume and checkpoint its run; the loop itself is
`train_towers`. Only writer of its folder's checkpoints.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from recsys.learning_settings import TowerSettings
from recsys.tower_networks import TowerConfig, TwoTower
from recsys.two_tower import load_towers, save_towers
from recsys.types import RowArray
from train_app.learning.checkpoints import Checkpoint, CheckpointFolder
from train_app.learning.divergence import TrainingDiverged
from train_app.learning.towers.sequence_batches import Sequences
from train_app.learning.towers.tower_watch import TowerWatch
from train_app.learning.towers.train_towers import Peers, TowerRun, TowerTrainer
from train_app.learning.warm_start import start_from

_ARRAYS_FILE = "job.safetensors"
_FACTS_FILE = "job.json"
_METRICS_FILE = "trained.json"
_SOUND_RISE = 2.0
"""A loss this many times the lowest one before, and a nat, is of weights that are no good."""


@dataclass(frozen=True, slots=True)
class JobFacts:
    """What a job is, apart from its arrays."""

    run_key: str
    """Names what is learned."""
    config: TowerConfig
    settings: TowerSettings
    seed: int
    use_bfloat16: bool
    n_threads: int
    checkpoint_every_s: float
    item_ids: tuple[str, ...] = ()
    """Of the rows; needed for a warm start only."""
    warm_start: str | None = None
    """A bundle directory to start from."""
    warm_rate_share: float | None = None
    """With a warm start: the share in the learning rate of `settings`."""
    checkpoint_key: str = ""
    """Names the runs whose checkpoints it may go on from; empty, its own alone."""
    go_on_from: str | None = None
    """A folder of towers of these very items to start from."""


@dataclass(frozen=True, slots=True)
class TowerJob:
    """Everything a tower training needs."""

    facts: JobFacts
    sequences: Sequences
    content: RowArray  # [N, tokens]
    is_known: NDArray[np.bool_]  # [N]
    watched: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """Events that the towers do not learn from, to see by them when training goes too far."""

    def save(self, directory: Path) -> None:
        """Write the job where another process can read it."""
        directory.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.ascontiguousarray(value) for name, value in self._arrays().items()}
        save_file(arrays, directory / _ARRAYS_FILE)
        document = asdict(self.facts) | {"settings": self.facts.settings.model_dump()}
        (directory / _FACTS_FILE).write_text(json.dumps(document))

    @classmethod
    def load(cls, directory: Path) -> TowerJob:
        """The job that `save` wrote."""
        arrays = load_file(directory / _ARRAYS_FILE)
        document = json.loads((directory / _FACTS_FILE).read_text())
        config = document["config"]
        document["config"] = TowerConfig(**{**config, "kinds": tuple(config["kinds"])})
        document["settings"] = TowerSettings.model_validate(document["settings"])
        document["item_ids"] = tuple(document["item_ids"])
        content, is_known = arrays.pop("content"), arrays.pop("is_known")
        watched = arrays.pop("watched")
        return cls(JobFacts(**document), Sequences(**arrays), content, is_known, watched)

    def _arrays(self) -> dict[str, NDArray[np.generic]]:
        sequences = self.sequences
        return {
            "offsets": sequences.offsets,
            "rows": sequences.rows,
            "kinds": sequences.kinds,
            "gaps": sequences.gaps,
            "is_target": sequences.is_target,
            "content": self.content,
            "is_known": self.is_known,
            "watched": self.watched,
        }


@dataclass(frozen=True, slots=True)
class TrainedTowers:
    """What a job leaves."""

    model: TwoTower
    metrics: dict[str, float]

    def save(self, directory: Path) -> None:
        """Write towers and metrics; a directory with metrics has everything."""
        save_towers(self.model, directory)
        draft = directory / f".{_METRICS_FILE}"
        draft.write_text(json.dumps(self.metrics))
        draft.replace(directory / _METRICS_FILE)

    @classmethod
    def load(cls, directory: Path) -> TrainedTowers | None:
        """What `save` wrote; None where it did not come to its end."""
        try:
            metrics = json.loads((directory / _METRICS_FILE).read_text())
        except FileNotFoundError:
            return None
        return cls(load_towers(directory).eval(), metrics)


def run_tower_job(
    job: TowerJob,
    checkpoint_dir: Path,
    peers: Peers,
    clock_s: Callable[[], float],
    report: Callable[[float], None],
) -> TrainedTowers:
    """Train the job's towers, from its newest whole checkpoint if there is one.

    Args:
        checkpoint_dir: seen by every worker; the first one writes to it.
        report: called after every step with the share that is done.

    Raises:
        TrainingDiverged: a loss or gradient is not finite; the checkpoints of before stay.
    """
    facts = job.facts
    torch.set_num_threads(facts.n_threads or len(os.sched_getaffinity(0)))
    torch.manual_seed(facts.seed)
    trainer = TowerTrainer(_starting_model(job), _tower_run(job, peers), clock_s)
    folder = CheckpointFolder(checkpoint_dir, facts.checkpoint_key or facts.run_key)
    watch = TowerWatch(job.sequences, job.watched, measures=peers.rank == 0, tell=peers.sum_across)
    newest = folder.newest()
    if newest is not None:
        trainer.resume(newest)
        watch.resume(newest.tensors, newest.numbers)
    metrics = {"tower_resumed_at_step": float(trainer.step)}
    taken_s, taken, most_loss = clock_s(), None, float("inf")
    for progress in trainer.train():
        report(progress.share_done)
        metrics |= {"tower_steps": float(progress.step), "tower_epochs": progress.epoch}
        metrics |= {"tower_loss": progress.loss, "tower_s": progress.elapsed_s}
        most_loss = min(most_loss, _SOUND_RISE * progress.loss + 1.0)
        if taken is not None:
            # The step after it shows whether it was good: weights may be lost and still finite.
            if progress.loss <= most_loss:
                folder.write(taken)
            taken = None
        if watch.is_due(progress.share_done):
            with trainer.average.in_place():
                is_over = watch.look(trainer.model, progress.share_done)
            if is_over:
                break
        if peers.rank == 0 and clock_s() - taken_s >= facts.checkpoint_every_s:
            taken, taken_s = _with_watch(trainer.checkpoint(), watch), clock_s()
    trainer.average.adopt()
    metrics |= watch.keep_best(trainer.model)
    _require_finite(trainer)
    return TrainedTowers(trainer.model.eval(), metrics)


def _require_finite(trainer: TowerTrainer) -> None:
    """What the last step made of the weights shows in no later loss."""
    for name, value in trainer.model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise TrainingDiverged(
                f"training the towers ended at step {trainer.step} with '{name}' not finite, "
                "expected numbers; halve train.towers.learning_rate and run it again"
            )


def _starting_model(job: TowerJob) -> TwoTower:
    facts = job.facts
    if facts.go_on_from is not None:
        return _with_new_items(load_towers(Path(facts.go_on_from)), job.sequences)
    model = TwoTower(facts.config, job.content, job.is_known)
    if facts.warm_start is not None:
        start_from(model, facts.item_ids, Path(facts.warm_start))
    return model


def _with_new_items(model: TwoTower, sequences: Sequences) -> TwoTower:
    """Items that are a target for the first time begin where retrieval had put them."""
    is_target = np.bincount(sequences.rows[sequences.is_target], minlength=model.config.n_items) > 0
    rows = torch.from_numpy(np.flatnonzero(is_target & ~model.item.is_known.numpy()))
    if len(rows):
        model.item.adopt(rows, torch.from_numpy(model.item_vectors())[rows])
    return model


def _tower_run(job: TowerJob, peers: Peers) -> TowerRun:
    facts = job.facts
    return TowerRun(
        job.sequences,
        facts.settings,
        facts.seed,
        facts.use_bfloat16,
        peers,
        facts.warm_rate_share,
        **({} if facts.go_on_from is None else {"warm_up_steps": 0}),
    )


def _with_watch(checkpoint: Checkpoint, watch: TowerWatch) -> Checkpoint:
    tensors, numbers = watch.state()
    return Checkpoint(
        checkpoint.step, {**checkpoint.tensors, **tensors}, {**checkpoint.numbers, **numbers}
    )
