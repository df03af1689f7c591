"""Micro-batching: what goes together, what is dropped, and who fails with whom."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from serve_app.micro_batch import IsLive, MicroBatcher


class Doubler:
    """Answers numbers with twice themselves, a batch at a time, when its gate is open."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, asks: Sequence[int], is_live: IsLive) -> list[int | Exception]:
        self.batches.append(list(asks))
        await self.gate.wait()
        if 13 in asks and len(asks) > 1:
            raise ValueError("thirteen spoils a batch")
        return [ValueError("thirteen") if ask == 13 else 2 * ask for ask in asks]


def test_asks_that_arrive_together_are_one_batch() -> None:
    """No timer is needed to fill a batch."""

    async def scenario() -> None:
        double = Doubler()
        double.gate.set()
        batcher = MicroBatcher(double, max_batch=8, max_in_flight=1)
        assert await asyncio.gather(*map(batcher.submit, range(5))) == [0, 2, 4, 6, 8]
        assert double.batches == [[0, 1, 2, 3, 4]]
        assert batcher.is_idle

    asyncio.run(scenario())


def test_what_arrives_while_all_slots_are_taken_goes_when_one_frees() -> None:
    """Batches grow with load by themselves, up to their limit."""

    async def scenario() -> None:
        double = Doubler()
        batcher = MicroBatcher(double, max_batch=3, max_in_flight=1)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        rest = [asyncio.create_task(batcher.submit(n)) for n in (2, 3, 4, 5)]
        await asyncio.sleep(0)
        assert double.batches == [[1]]
        double.gate.set()
        assert await asyncio.gather(first, *rest) == [2, 4, 6, 8, 10]
        assert double.batches == [[1], [2, 3, 4], [5]]

    asyncio.run(scenario())


def test_an_ask_whose_caller_left_is_not_run() -> None:
    """A cancelled future stays out of the next batch."""

    async def scenario() -> None:
        double = Doubler()
        batcher = MicroBatcher(double, max_batch=8, max_in_flight=1)
        first = asyncio.create_task(batcher.submit(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        gone, stays = asyncio.create_task(batcher.submit(2)), asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        gone.cancel()
        double.gate.set()
        assert await asyncio.gather(first, stays) == [2, 6]
        assert double.batches == [[1], [3]]

    asyncio.run(scenario())


def test_a_caller_that_leaves_while_its_batch_runs_harms_no_neighbour() -> None:
    """Settling a cancelled future must not fail the batch."""

    async def scenario() -> None:
        double = Doubler()
        batcher = MicroBatcher(double, max_batch=8, max_in_flight=1)
        tasks = [asyncio.create_task(batcher.submit(n)) for n in (1, 2, 3)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[1].cancel()
        double.gate.set()
        assert await asyncio.gather(tasks[0], tasks[2]) == [2, 6]

    asyncio.run(scenario())


def test_a_batch_that_fails_is_tried_one_by_one() -> None:
    """Only the ask that cannot be answered fails."""

    async def scenario() -> None:
        double = Doubler()
        double.gate.set()
        batcher = MicroBatcher(double, max_batch=8, max_in_flight=1)
        answers = await asyncio.gather(*map(batcher.submit, (1, 13, 3)), return_exceptions=True)
        assert answers[0] == 2
        assert answers[2] == 6
        assert isinstance(answers[1], ValueError)
        assert batcher.is_idle

    asyncio.run(scenario())


def test_running_batches_learn_who_still_waits() -> None:
    """A stage may leave out the work of callers that went away."""
    seen: list[bool] = []

    async def run(asks: Sequence[int], is_live: IsLive) -> list[int | Exception]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        seen.extend(is_live(index) for index in range(len(asks)))
        return list(asks)

    async def scenario() -> None:
        batcher = MicroBatcher(run, max_batch=8, max_in_flight=1)
        tasks = [asyncio.create_task(batcher.submit(n)) for n in (1, 2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        tasks[0].cancel()
        assert await tasks[1] == 2
        with pytest.raises(asyncio.CancelledError):
            await tasks[0]

    asyncio.run(scenario())
    assert seen == [False, True]
