"""Where a stage runs, behind one call: in its own deployment or inside the gateway replica.

Knows how long a call may take and when a stage is left alone; not what a stage does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from recsys.errors import BundleError
from recsys.stages import Stage
from recsys.types import Batch
from serve_app.stages.breaker import BundleBreakers

logger = logging.getLogger("ray.serve")


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
    """A stage that cannot be asked just now: it failed too often, or no replica is there."""


class StageClient(Protocol):
    """One stage, wherever it runs."""

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        """Run `method` of the bundle's stage on a batch, which nobody may change from then on.

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


Ask: TypeAlias = Callable[[str, str, Batch, float], Awaitable[Batch | None]]
"""Method, bundle id, batch and seconds left to a replica's answer; None where it holds no such
bundle."""


class RemoteStage:
    """A stage in its own deployment; a bundle it keeps failing with is left alone for a while.

    Args:
        ask: how its replicas are reached; tries another one where a replica is lost.
    """

    def __init__(self, stage: str, ask: Ask) -> None:
        self._stage = stage
        self._breakers = BundleBreakers(time.monotonic)
        self._ask = ask

    async def call(self, method: str, bundle_id: str, batch: Batch, timeout_s: float) -> Batch:
        """See `StageClient`."""
        if timeout_s <= 0:
            raise TimeoutError
        breaker = self._breakers.of(bundle_id)
        if not breaker.allows():
            raise StageAway(f"{self._stage} has not answered for bundle {bundle_id} for a while")
        try:
            async with asyncio.timeout(timeout_s):
                answer = await self._ask(method, bundle_id, batch, timeout_s)
        except Exception:
            breaker.failed()
            raise
        breaker.succeeded()
        if answer is None:
            raise BundleMiss(f"{self._stage} does not hold bundle {bundle_id}")
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
