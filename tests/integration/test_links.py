"""Links over loopback: replicas that answer, die, leave, freeze and come back, and impostors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from recsys.types import Batch
from serve_app.links import link_pool, link_server
from serve_app.links.frames import Kind, pack_frame
from serve_app.links.link import LinkLost, StageError, open_link
from serve_app.links.link_pool import WINDOW, LinkPool
from serve_app.links.link_server import LinkAddress, LinkServer
from serve_app.stages.placement import RemoteStage, StageAway

pytestmark = pytest.mark.integration

HOST = "127.0.0.1"


@dataclass
class Replica:
    """A stage replica in this process; says who answered."""

    name: str
    n_calls: int = 0
    server: LinkServer = field(init=False)
    address: LinkAddress = field(init=False)

    def run(self, method: str, bundle_id: str, batch: Batch) -> Batch | None:
        """Doubles what it is given."""
        self.n_calls += 1
        if method == "fail":
            raise ValueError("no such column")
        if bundle_id == "absent":
            return None
        return {"doubled": 2 * batch["x"], "who": np.frombuffer(self.name.encode(), np.uint8)}

    async def start(self) -> None:
        """Listen."""
        self.server = LinkServer(self.run, self.name)
        self.address = await self.server.start(HOST)


@dataclass
class Fleet:
    """Replicas as Serve lists them, and a pool over them."""

    replicas: list[Replica]
    listed: list[LinkAddress]
    pool: LinkPool

    def stage(self) -> RemoteStage:
        """As the pipeline calls it."""
        return RemoteStage("scorer", self.pool.ask)


@asynccontextmanager
async def a_fleet(n_replicas: int) -> AsyncGenerator[Fleet]:
    """Some replicas and a started pool; all is closed at the end."""
    replicas = [Replica(f"r{n}") for n in range(n_replicas)]
    for replica in replicas:
        await replica.start()
    listed = [replica.address for replica in replicas]

    async def find() -> list[LinkAddress]:
        await asyncio.sleep(0)
        return list(listed)

    pool = LinkPool("scorer", find, random.Random(5))
    await pool.start()
    try:
        yield Fleet(replicas, listed, pool)
    finally:
        await pool.stop()
        for replica in replicas:
            await replica.server.stop(0.0)


def go(scenario: Callable[[], Coroutine[None, None, None]], timeout_s: float = 20.0) -> None:
    """Run it, but not for ever."""

    async def bounded() -> None:
        async with asyncio.timeout(timeout_s):
            await scenario()

    asyncio.run(bounded())


async def until(is_true: Callable[[], bool]) -> None:
    """Wait for a condition."""
    while not is_true():
        await asyncio.sleep(0.005)


async def ask(
    pool: LinkPool, x: int = 21, method: str = "double", bundle: str = "b1"
) -> Batch | None:
    """One call with a second to spare."""
    return await pool.ask(method, bundle, {"x": np.asarray([x])}, 1.0)


def who(answer: Batch | None) -> str:
    """The replica that answered."""
    assert answer is not None
    return answer["who"].tobytes().decode()


def test_a_stage_answers_misses_and_fails_over_its_link() -> None:
    """The three outcomes, and a thousand calls at once in their own order."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            answer = await ask(fleet.pool)
            assert answer is not None
            assert answer["doubled"].tolist() == [42]
            assert await ask(fleet.pool, bundle="absent") is None
            with pytest.raises(StageError, match="no such column"):
                await ask(fleet.pool, method="fail")
            answers = await asyncio.gather(*(ask(fleet.pool, x) for x in range(1000)))
            assert [a["doubled"].item() for a in answers if a is not None] == [
                2 * x for x in range(1000)
            ]

    go(scenario)


def test_calls_of_a_replica_that_is_cut_are_made_at_another() -> None:
    """None of those under way is lost."""

    async def scenario() -> None:
        async with a_fleet(2) as fleet:
            calls = [asyncio.ensure_future(ask(fleet.pool, x)) for x in range(200)]
            await asyncio.sleep(0)
            fleet.listed.pop(0)
            await fleet.replicas[0].server.stop(0.0)
            answers = await asyncio.gather(*calls)
            assert [a["doubled"].item() for a in answers if a is not None] == [
                2 * x for x in range(200)
            ]
            assert who(await ask(fleet.pool)) == "r1"

    go(scenario)


def test_a_replica_that_leaves_in_order_fails_nobody_and_a_new_one_is_found() -> None:
    """A rolling upgrade under load: the old one waits until the new one is asked."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            new = Replica("new")
            await new.start()
            fleet.listed.append(new.address)
            is_over = False
            names: list[str] = []

            async def load() -> None:
                while not is_over:
                    names.append(who(await ask(fleet.pool)))

            loads = [asyncio.ensure_future(load()) for _ in range(4)]
            await until(lambda: len(names) > 20)
            fleet.listed.pop(0)
            await fleet.replicas[0].server.stop(5.0)
            n_before = len(names)
            await until(lambda: len(names) > n_before + 20)
            is_over = True
            await asyncio.gather(*loads)
            assert set(names[n_before + 4 :]) == {"new"}
            await new.server.stop(0.0)

    go(scenario)


def test_without_any_replica_a_call_is_refused_at_once_and_a_later_one_is_found() -> None:
    """Nobody waits out a timeout for a stage of which no replica is there."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            fleet.listed.clear()
            await fleet.replicas[0].server.stop(0.0)
            await until(lambda: not fleet.pool._links)
            with pytest.raises(StageAway, match="no replica of scorer is connected"):
                await ask(fleet.pool)
            back = Replica("back")
            await back.start()
            fleet.listed.append(back.address)
            await until(lambda: bool(fleet.pool._links))
            assert who(await ask(fleet.pool)) == "back"
            await back.server.stop(0.0)

    go(scenario)


def test_calls_spread_over_replicas_and_a_silent_one_is_passed_over() -> None:
    """One that let a call down is asked again only once it has said something."""

    async def scenario() -> None:
        async with a_fleet(2) as fleet:
            for _ in range(10):
                await ask(fleet.pool)
            assert [replica.n_calls for replica in fleet.replicas] == [5, 5]
            silent = fleet.pool._links["r0"]
            silent.buffer_updated = lambda nbytes: None  # type: ignore[method-assign]
            stage = fleet.stage()
            outcomes = []
            for _ in range(12):
                try:
                    answer = await stage.call("double", "b1", {"x": np.asarray([1])}, 0.05)
                    outcomes.append(who(answer))
                except TimeoutError:
                    outcomes.append("timeout")
            assert outcomes.count("timeout") == 1
            assert set(outcomes[outcomes.index("timeout") + 1 :]) == {"r1"}
            for _ in range(link_pool.PATIENT_BEATS + 1):
                silent.beat(link_pool.PATIENT_BEATS)
            await until(lambda: fleet.pool._links.get("r0") is not silent)

    go(scenario)


def test_more_calls_than_the_window_wait_here_and_a_cancelled_one_passes_its_room_on() -> None:
    """The replica never has more than the window under way."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            link = fleet.pool._links["r0"]
            calls = [asyncio.ensure_future(ask(fleet.pool, x)) for x in range(3 * WINDOW)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert link.n_outstanding == WINDOW
            for call in calls[WINDOW : 2 * WINDOW]:
                call.cancel()
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert [isinstance(entry, asyncio.CancelledError) for entry in done] == [
                WINDOW <= n < 2 * WINDOW for n in range(3 * WINDOW)
            ]
            assert link.n_outstanding == 0

    go(scenario)


def test_a_call_whose_caller_no_longer_waits_is_not_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """A replica that was busy for longer than the deadline does not work for nobody."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            replica = fleet.replicas[0]
            loop = asyncio.get_running_loop()
            real, ahead_s = loop.time, [0.0]
            call_soon = loop.call_soon

            def later(callback: object, *args: object, **kwargs: object) -> asyncio.Handle:
                if getattr(callback, "__name__", "") == "_answer":
                    ahead_s[0] += 2.0
                return call_soon(callback, *args, **kwargs)  # type: ignore[arg-type]

            monkeypatch.setattr(loop, "call_soon", later, raising=False)
            monkeypatch.setattr(loop, "time", lambda: real() + ahead_s[0], raising=False)
            before = replica.n_calls
            with pytest.raises(TimeoutError):
                await fleet.stage().call("double", "b1", {"x": np.asarray([1])}, 1.0)
            assert replica.n_calls == before

    go(scenario)


def test_whoever_does_not_know_the_token_is_turned_away() -> None:
    """A gateway with another token, a stranger that talks, and an impostor that listens."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            address = fleet.listed[0]
            with pytest.raises(LinkLost):
                await open_link(replace(address, token=b"guess"), lambda: None, lambda: None)
            for said in (b"GET / HTTP/1.1\r\n\r\n" + bytes(64), call_without_greeting()):
                reader, writer = await asyncio.open_connection(HOST, address.port)
                await reader.readexactly(48)  # the replica's own greeting
                writer.write(said)
                with pytest.raises(ConnectionError):
                    while await reader.read(1000):
                        pass
                    raise ConnectionResetError
                writer.close()
            assert fleet.replicas[0].n_calls == 0
            impostor = LinkServer(fleet.replicas[0].run, "r0")
            theirs = await impostor.start(HOST)
            with pytest.raises(LinkLost):
                await open_link(replace(theirs, token=address.token), lambda: None, lambda: None)
            await impostor.stop(0.0)
            assert who(await ask(fleet.pool)) == "r0"

    go(scenario)


def call_without_greeting() -> bytes:
    """A well-formed call of one that has proved nothing."""
    return b"".join(pack_frame(Kind.CALL, 1, b"\x90", (), 1000))


def test_a_stranger_that_says_nothing_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections are not held open for nobody."""
    monkeypatch.setattr(link_server, "GREETING_S", 0.05)

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            reader, writer = await asyncio.open_connection(HOST, fleet.listed[0].port)
            await reader.readexactly(48)
            with pytest.raises(ConnectionError):
                if not await reader.read(1):
                    raise ConnectionResetError
            writer.close()
            assert who(await ask(fleet.pool)) == "r0"

    go(scenario)


def test_a_call_with_a_garbled_body_ends_the_link_and_the_pool_connects_again() -> None:
    """Damage costs one connection, not the replica."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            first = fleet.pool._links["r0"]
            assert first._transport is not None
            first._transport.write(bytes(64))
            await until(lambda: not first.is_open)
            await until(lambda: fleet.pool._links.get("r0") not in (None, first))
            assert who(await ask(fleet.pool)) == "r0"

    go(scenario)
