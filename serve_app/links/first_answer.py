"""Of several attempts at one call the answer that counts: the first one that is any."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from recsys.types import Batch
from serve_app.links.link import Attempt, LinkLost


async def first_answer(attempts: Sequence[Attempt]) -> Batch | None:
    """The first answer of several attempts at one call; None where none holds the bundle.

    Raises:
        LinkLost: every replica went away.
        StageError: the stage failed.
    """
    if len(attempts) == 1:
        return await attempts[0].answered
    waiting = {attempt.answered for attempt in attempts}
    lost: LinkLost | None = None
    lacks_it = False
    while waiting:
        done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for answered in done:
            error = answered.exception()
            if isinstance(error, LinkLost):
                lost = error
                continue
            answer = answered.result()
            if answer is not None:
                return answer
            lacks_it = True
    if lost is not None and not lacks_it:
        raise lost
    return None
