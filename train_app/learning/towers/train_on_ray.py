"""Runs a tower job on Ray Train workers that share a folder; a lost worker is replaced.

The workers split every batch, so their number does not change what is learned. Knows nothing of
how towers are trained.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys.errors import FleetError
from train_app.learning.divergence import TrainingDiverged

_MAX_LOST_WORKERS = 3
_POLL_S = 1.0
_PROGRESS_FILE = "progress.json"
_DIVERGED_FILE = "diverged.txt"
"""Says why the workers stopped: Ray would start a worker that raises again, to no end."""


def train_on_ray(
    job_dir: Path, checkpoint_dir: Path, n_workers: int, report: Callable[[float], None]
) -> None:
    """Train the job saved in `job_dir` to its end; the model is left in `job_dir`.

    Joins the Ray cluster that `RAY_ADDRESS` names, else starts one for as long as it trains.

    Raises:
        FleetError: Ray could not train it.
        TrainingDiverged: a loss or gradient is not finite.
    """
    import ray

    (job_dir / _DIVERGED_FILE).unlink(missing_ok=True)

    started_here = not ray.is_initialized()
    if started_here:
        _start_ray(n_workers)
    try:
        _fit(job_dir, checkpoint_dir, n_workers, report)
    finally:
        if started_here:
            ray.shutdown()
    if (job_dir / _DIVERGED_FILE).exists():
        raise TrainingDiverged((job_dir / _DIVERGED_FILE).read_text())


def _start_ray(n_workers: int) -> None:
    import ray

    if os.environ.get("RAY_ADDRESS"):
        ray.init(address="auto", log_to_driver=False)
        return
    ray.init(
        address="local",
        num_cpus=n_workers,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=100 * 2**20,
    )


def _fit(
    job_dir: Path, checkpoint_dir: Path, n_workers: int, report: Callable[[float], None]
) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _train_in_worker,
        train_loop_config={"job_dir": str(job_dir), "checkpoint_dir": str(checkpoint_dir)},
        scaling_config=ScalingConfig(num_workers=n_workers, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(
            # Ray keeps a run's state under its name; ours is in our own checkpoints.
            name=f"towers-{time.time_ns()}",
            storage_path=str(job_dir / "ray"),
            failure_config=FailureConfig(max_failures=_MAX_LOST_WORKERS),
        ),
    )
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(_POLL_S)
        report(_share_done(job_dir))
    if failure:
        raise FleetError(
            f"training on {n_workers} Ray workers failed: {failure[0]}; run it again to resume, "
            "or set train.n_workers = 0 to train in this process"
        ) from failure[0]


def _train_in_worker(config: dict[str, Any]) -> None:
    """One worker's part; runs in its own process."""
    import ray.train
    import torch.distributed

    from train_app.learning.towers.tower_job import TowerJob, run_tower_job
    from train_app.learning.towers.train_towers import Peers

    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    job_dir = Path(config["job_dir"])
    told_s = 0.0

    def tell(share_done: float) -> None:
        nonlocal told_s
        if rank == 0 and time.monotonic() - told_s >= _POLL_S:
            told_s = time.monotonic()
            _tell_share(job_dir, share_done)

    peers = Peers(rank, size, torch.distributed.all_reduce) if size > 1 else Peers()
    checkpoint_dir = Path(config["checkpoint_dir"])
    job = TowerJob.load(job_dir)
    try:
        trained = run_tower_job(job, checkpoint_dir, peers, time.monotonic, tell)
        if rank == 0:
            trained.save(job_dir)
    except TrainingDiverged as error:
        # Every worker meets it in the same step: what is not finite is a sum over all of them.
        if rank == 0:
            (job_dir / _DIVERGED_FILE).write_text(str(error))
    ray.train.report({"share_done": 1.0})


def _tell_share(job_dir: Path, share_done: float) -> None:
    draft = job_dir / f".{_PROGRESS_FILE}"
    draft.write_text(json.dumps(share_done))
    draft.replace(job_dir / _PROGRESS_FILE)


def _share_done(job_dir: Path) -> float:
    try:
        return float(json.loads((job_dir / _PROGRESS_FILE).read_text()))
    except (OSError, ValueError):
        return 0.0
