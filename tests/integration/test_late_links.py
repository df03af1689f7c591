"""Calls that are late: made at a second replica, within bounds, and no bundle waits for another."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import numpy as np
import pytest

from serve_app.links.hedge_rule import N_KNOWN, SHARE
from serve_app.links.link_pool import WINDOW, Roster
from tests.linked_fleet import Fleet, a_fleet, ask, freeze, until, who

pytestmark = pytest.mark.integration

N_BEFORE = 4 * N_KNOWN
"""Calls after which it is known what is late."""


def run(scenario: Callable[[Fleet], Awaitable[None]], n_replicas: int) -> None:
    """Carry a scenario out on a fleet, but not for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(20), a_fleet(n_replicas) as fleet:
            await scenario(fleet)

    asyncio.run(bounded())


async def ask_often(fleet: Fleet) -> None:
    """So often that it is known what is late."""
    for x in range(N_BEFORE):
        await ask(fleet.pool, x)


def test_calls_of_a_replica_that_hangs_are_made_at_another_and_none_waits_for_it() -> None:
    """The first late call takes the silent replica out of turn, so few calls are made twice."""

    async def scenario(fleet: Fleet) -> None:
        await ask_often(fleet)
        n_before = len(fleet.hedged)
        freeze(fleet.replicas[0])
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        names = [who(await ask(fleet.pool, x)) for x in range(20)]
        assert set(names) == {"r1"}
        assert 1 <= len(fleet.hedged) - n_before <= 3
        assert loop.time() - began_s < 5.0

    run(scenario, 2)


def test_no_more_than_a_small_share_of_calls_is_made_twice() -> None:
    """Even where every replica is as late as the other."""

    async def scenario(fleet: Fleet) -> None:
        await ask_often(fleet)
        n_hedged = len(fleet.hedged)
        for _ in range(6):
            batch = {"x": np.asarray([1])}
            calls = [fleet.pool.ask("linger", "b1", batch, 30.0) for _ in range(2)]
            await asyncio.gather(*calls)
        n_calls = N_BEFORE + 12
        assert n_hedged <= len(fleet.hedged) <= SHARE * n_calls

    run(scenario, 2)


def test_a_single_replica_is_never_asked_twice() -> None:
    """A second call to it would only make it later."""

    async def scenario(fleet: Fleet) -> None:
        await ask_often(fleet)
        freeze(fleet.replicas[0])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await ask(fleet.pool)
        assert fleet.hedged == []

    run(scenario, 1)


def test_a_bundle_whose_calls_hang_leaves_every_other_its_window() -> None:
    """However many calls of one wait, a call of another is sent at once."""

    async def scenario(fleet: Fleet) -> None:
        freeze(fleet.replicas[0])
        link = fleet.pool._links["r0"]
        stuck = [asyncio.ensure_future(ask(fleet.pool, bundle="bad")) for _ in range(3 * WINDOW)]
        await until(lambda: link.n_outstanding == WINDOW)
        good = asyncio.ensure_future(ask(fleet.pool, bundle="good"))
        await until(lambda: link.n_asked_for("good") == 1)
        assert link.n_asked_for("bad") == WINDOW
        for call in (*stuck, good):
            call.cancel()
        await asyncio.wait([*stuck, good])
        assert link.n_outstanding == 0

    run(scenario, 1)


def test_a_replica_lets_bundles_take_turns() -> None:
    """A call of one bundle waits for one call of each other, not for all that came before it."""

    async def scenario(fleet: Fleet) -> None:
        slow = [
            asyncio.ensure_future(ask(fleet.pool, method="linger", bundle="slow")) for _ in range(4)
        ]
        await asyncio.sleep(0)
        good = asyncio.ensure_future(ask(fleet.pool, bundle="good"))
        await asyncio.gather(*slow, good)
        assert fleet.replicas[0].bundles.index("good") <= 2
        assert fleet.replicas[0].bundles.count("slow") == 4

    run(scenario, 1)


def test_while_serve_says_nothing_the_links_at_hand_stay() -> None:
    """Its controller, or Ray's own, may be gone for a while."""

    async def scenario(fleet: Fleet) -> None:
        async def gone() -> Roster:
            await asyncio.sleep(0)
            raise ConnectionError("no controller")

        fleet.pool._find = gone
        for _ in range(3):
            await fleet.pool.refresh()
        names = {who(await ask(fleet.pool, x)) for x in range(10)}
        assert names == {"r0", "r1"}

    run(scenario, 2)
