"""Drain-on-idle micro-batching: when a slot frees, everything pending goes, and no timer waits.

Knows nothing of what a batch does. One ask never fails another, and asks whose caller has gone
are dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

AskT = TypeVar("AskT")
AnswerT = TypeVar("AnswerT")

IsLive = Callable[[int], bool]
"""Whether the caller of the ask at this index still waits."""


@dataclass(slots=True)
class _Pending(Generic[AskT, AnswerT]):
    ask: AskT
    future: asyncio.Future[AnswerT]


class MicroBatcher(Generic[AskT, AnswerT]):
    """Turns single asks into batches.

    Args:
        run: answers a batch in order; an exception in the list fails that ask alone, a raised one
            makes every ask of the batch be tried by itself.
        max_batch: asks in one batch at most.
        max_in_flight: batches running at once.
        leave: why an ask that waited is not to be answered any more, or None.
    """

    def __init__(
        self,
        run: Callable[[Sequence[AskT], IsLive], Awaitable[Sequence[AnswerT | Exception]]],
        *,
        max_batch: int,
        max_in_flight: int,
        leave: Callable[[AskT], Exception | None] = lambda ask: None,
    ) -> None:
        self._run = run
        self._leave = leave
        self._max_batch = max_batch
        self._max_in_flight = max_in_flight
        self._pending: deque[_Pending[AskT, AnswerT]] = deque()
        self._running: set[asyncio.Task[None]] = set()
        self._drain_is_due = False

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits and nothing runs."""
        return not self._pending and not self._running

    @property
    def is_full(self) -> bool:
        """Whether as many batches run as may."""
        return len(self._running) >= self._max_in_flight

    @property
    def n_waiting(self) -> int:
        """Asks that wait because it is full; those that go in the next turn do not count."""
        return len(self._pending) if self.is_full else 0

    async def submit(self, ask: AskT) -> AnswerT:
        """The answer to one ask; cancelling the caller drops it from its batch."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[AnswerT] = loop.create_future()
        self._pending.append(_Pending(ask, future))
        self._schedule(loop)
        return await future

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        # One turn of the loop later, so that asks that arrived together go together.
        if self._pending and not self._drain_is_due and len(self._running) < self._max_in_flight:
            self._drain_is_due = True
            loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._drain_is_due = False
        while len(self._running) < self._max_in_flight:
            batch = self._take()
            if not batch:
                return
            task = asyncio.get_running_loop().create_task(self._answer(batch))
            self._running.add(task)
            task.add_done_callback(self._finished)

    def _take(self) -> list[_Pending[AskT, AnswerT]]:
        batch: list[_Pending[AskT, AnswerT]] = []
        while self._pending and len(batch) < self._max_batch:
            pending = self._pending.popleft()
            if pending.future.done():
                continue
            why = self._leave(pending.ask)
            if why is None:
                batch.append(pending)
            else:
                pending.future.set_exception(why)
        return batch

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._schedule(task.get_loop())

    async def _answer(self, batch: list[_Pending[AskT, AnswerT]]) -> None:
        try:
            await self._answer_together(batch)
        except Exception as error:
            if len(batch) == 1:
                _settle(batch[0].future, error)
                return
            for pending in batch:
                if not pending.future.done():
                    await self._answer([pending])
        except BaseException:
            for pending in batch:
                pending.future.cancel()
            raise

    async def _answer_together(self, batch: list[_Pending[AskT, AnswerT]]) -> None:
        answers = await self._run(
            [pending.ask for pending in batch], lambda index: not batch[index].future.done()
        )
        for pending, answer in zip(batch, answers, strict=True):
            _settle(pending.future, answer)


def _settle(future: asyncio.Future[AnswerT], answer: AnswerT | Exception) -> None:
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
