"""Where a stage runs, behind one call: in its own deployment or inside the gateway replica.

Knows how arrays travel, how long a call may take and what is tried again; not what a stage does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from recsys.errors import BundleError
from recsys.stages import Stage
from recsys.types import Batch
from serve_app.stages.breaker import Breaker

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle

logger = logging.getLogger("ray.serve")

PackedBatch: TypeAlias = dict[str, tuple[str, tuple[int, ...], bytes]]
"""Arrays as dtype, shape and bytes: a twelfth of the cost of pickling them as arrays."""


class BundleMiss(BundleError):
    """A stage was asked for a bundle it does not hold."""


@dataclass(frozen=True, slots=True)
class StageFailure:
    """A stage call that brought nothing: the stage and the reason in a word."""

    stage: str
    reason: str

    def __str__(self) -> str:
        """As it stands in `degraded`."""
        return f"{self.stage}: {self.reason}"


class StageAway(RuntimeError):
    """A stage that failed several times in a row is not asked just now."""


class StageClient(Protocol):
    """One stage, wherever it runs."""

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        """Run `method` of the bundle's stage on a batch.

        Raises:
            BundleMiss: the stage does not hold the bundle.
            TimeoutError: no answer within `timeout_s`.
        """


class FusedStage:
    """A stage inside this process; it runs on the caller's loop, so a timeout cannot stop it."""

    def __init__(self, stage: str, find: Callable[[str], Stage | None]) -> None:
        self._stage = stage
        self._find = find

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        """See `StageClient`."""
        if timeout_s <= 0:
            raise TimeoutError
        stage = self._find(bundle_id)
        if stage is None:
            raise BundleMiss(f"{self._stage} does not hold bundle {bundle_id}")
        # Other requests are read between stages: one turn of the loop costs microseconds.
        await asyncio.sleep(0)
        return stage(method, batch)


class HandleStage:
    """A stage in its own deployment, called through a Serve handle.

    A call whose replica is lost is tried once more, on another replica: stages are pure. A stage
    that keeps failing is left alone for a while.
    """

    def __init__(self, stage: str, handle: DeploymentHandle[Any]) -> None:
        self._stage = stage
        self._breaker = Breaker(time.monotonic)
        # Pickle packs these payloads six times faster than the default cloudpickle.
        self._handle = handle.options(
            method_name="call", request_serialization="pickle", response_serialization="pickle"
        )

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        """See `StageClient`."""
        if not self._breaker.allows():
            raise StageAway(f"{self._stage} has not answered for a while")
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(method, bundle_id, pack_batch(batch))
        except Exception:
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        if answer is None:
            raise BundleMiss(f"{self._stage} does not hold bundle {bundle_id}")
        return unpack_batch(answer)

    async def _ask(self, method: str, bundle_id: str, packed: PackedBatch) -> PackedBatch | None:
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import ReplicaUnavailableError

        answer: PackedBatch | None
        try:
            answer = await self._handle.remote(method, bundle_id, packed)
        except (RayActorError, ReplicaUnavailableError) as lost:
            logger.warning("%s lost a replica, asking another: %r", self._stage, lost)
            answer = await self._handle.remote(method, bundle_id, packed)
        return answer


async def try_stage(
    client: StageClient,
    stage: str,
    method: str,
    bundle_id: str,
    batch: Batch,
    timeout_s: float,
) -> Batch | StageFailure:
    """A stage call that turns every failure but a miss into a reason to degrade."""
    try:
        return await client.call(method, bundle_id, batch, timeout_s)
    except BundleMiss:
        raise
    except TimeoutError:
        return StageFailure(stage, "timeout")
    except StageAway:
        return StageFailure(stage, "unavailable")
    except Exception as error:
        logger.warning("stage %s.%s of bundle %s failed: %r", stage, method, bundle_id, error)
        return StageFailure(stage, "unavailable")


def pack_batch(batch: Batch) -> PackedBatch:
    """Arrays as plain bytes."""
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in batch.items()}


def unpack_batch(packed: PackedBatch) -> Batch:
    """Plain bytes as arrays that may be written to, which Torch asks for."""
    return {
        name: np.frombuffer(data, np.dtype(dtype)).reshape(shape).copy()
        for name, (dtype, shape, data) in packed.items()
    }
