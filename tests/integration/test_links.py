"""Links over loopback: replicas that answer, die, leave, freeze and come back, and impostors."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from serve_app.links import link_pool, link_server
from serve_app.links.frames import Frame, Kind, pack_frame
from serve_app.links.handshake import LinkAddress
from serve_app.links.link import LinkLost, StageError, open_link
from serve_app.links.link_pool import WINDOW
from serve_app.links.link_server import LinkServer
from serve_app.stages.placement import StageAway
from tests.linked_fleet import HOST, Fleet, Go, Replica, a_fleet, ask, freeze, runs_on, until, who

pytestmark = pytest.mark.integration


@pytest.fixture(params=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Go:
    """Runs a scenario on the loop of either kind of replica, but not for ever."""
    return runs_on(request.param)


def test_a_stage_answers_misses_and_fails_over_its_link(go: Go) -> None:
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


def test_a_bundle_that_one_replica_lacks_is_asked_of_another(go: Go) -> None:
    """Only where two of three lack it may a call be in vain."""

    async def scenario() -> None:
        async with a_fleet(3) as fleet:
            fleet.replicas[0].lacking.add("b7")
            answers = await asyncio.gather(*(ask(fleet.pool, x, bundle="b7") for x in range(60)))
            assert all(answer is not None for answer in answers)
            for replica in fleet.replicas:
                replica.lacking.add("b7")
            n_before = sum(replica.n_calls for replica in fleet.replicas)
            assert await ask(fleet.pool, bundle="b7") is None
            assert sum(replica.n_calls for replica in fleet.replicas) == n_before + 2

    go(scenario)


def test_calls_of_a_replica_that_is_cut_are_made_at_another(go: Go) -> None:
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


def test_a_replica_that_leaves_in_order_fails_nobody_and_a_new_one_is_found(go: Go) -> None:
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


def test_without_any_replica_a_call_is_refused_at_once_and_a_later_one_is_found(go: Go) -> None:
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


def test_calls_spread_over_replicas_and_a_silent_one_is_passed_over(go: Go) -> None:
    """One that let a call down is asked again only once it has said something."""

    async def scenario() -> None:
        async with a_fleet(2) as fleet:
            for _ in range(10):
                await ask(fleet.pool)
            assert [replica.n_calls for replica in fleet.replicas] == [5, 5]
            silent = fleet.pool._links["r0"]
            freeze(fleet.replicas[0])
            stage = fleet.stage()
            outcomes = []
            for _ in range(12):
                try:
                    answer = await stage.call("double", "b1", {"x": np.asarray([1])}, 0.5)
                    outcomes.append(who(answer))
                except TimeoutError:
                    outcomes.append("timeout")
            assert outcomes.count("timeout") == 1
            assert set(outcomes[outcomes.index("timeout") + 1 :]) == {"r1"}
            for _ in range(link_pool.PATIENT_BEATS + 1):
                silent.beat(link_pool.PATIENT_BEATS)
            await until(lambda: fleet.pool._links.get("r0") is not silent)

    go(scenario)


def test_more_calls_than_the_window_wait_here_and_a_cancelled_one_passes_its_room_on(
    go: Go,
) -> None:
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


def test_a_call_whose_caller_no_longer_waits_is_not_begun(go: Go) -> None:
    """A replica that was busy for longer than the deadline does not work for nobody."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            slow = asyncio.ensure_future(ask(fleet.pool, method="linger"))
            late = [asyncio.ensure_future(call_for(fleet, 0.1)) for _ in range(3)]
            assert await asyncio.gather(*late) == ["timeout"] * 3
            await slow
            await ask(fleet.pool)
            assert fleet.replicas[0].n_calls == 2

    go(scenario)


async def call_for(fleet: Fleet, timeout_s: float) -> str:
    """Who answered in time."""
    try:
        return who(await fleet.stage().call("double", "b1", {"x": np.asarray([1])}, timeout_s))
    except TimeoutError:
        return "timeout"


def test_a_call_that_waited_for_room_has_only_what_is_left_of_its_time(go: Go) -> None:
    """The replica is told what is left when it is sent."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            freeze(fleet.replicas[0])
            stuck = [asyncio.ensure_future(ask(fleet.pool)) for _ in range(WINDOW)]
            await asyncio.sleep(0)
            waiting = asyncio.ensure_future(ask(fleet.pool))
            await asyncio.sleep(0.3)
            new = Replica("new")
            await new.start()
            told_ms: list[int] = []
            take = new.server.take

            def watched(link: Any, frame: Frame) -> None:
                told_ms.append(frame.time_left_ms)
                take(link, frame)

            new.server.take = watched  # type: ignore[method-assign]
            fleet.listed.append(new.address)
            await fleet.pool.refresh()
            assert who(await waiting) == "new"
            (left_ms,) = told_ms
            assert 0 < left_ms <= 29_800
            for call in stuck:
                call.cancel()
            await asyncio.wait(stuck)
            await new.server.stop(0.0)

    go(scenario)


def test_a_stage_that_answers_no_numbers_fails_that_call_alone(go: Go) -> None:
    """The calls beside it, and the link, are well."""

    async def scenario() -> None:
        async with a_fleet(2) as fleet:
            before = dict(fleet.pool._links)
            good = [asyncio.ensure_future(ask(fleet.pool, x)) for x in range(20)]
            with pytest.raises(StageError, match="expected numbers"):
                await ask(fleet.pool, method="say words")
            with pytest.raises(ValueError, match="expected numbers"):
                await fleet.pool.ask("double", "b1", {"x": np.asarray([None])}, 1.0)
            assert all(answer is not None for answer in await asyncio.gather(*good))
            assert fleet.pool._links == before

    go(scenario)


def test_a_replica_that_does_not_say_where_it_listens_holds_up_no_other(go: Go) -> None:
    """Its own link stays as well, as long as it answers there."""

    async def scenario() -> None:
        async with a_fleet(2) as fleet:
            fleet.silent.append("r0")
            new = Replica("r2")
            await new.start()
            fleet.listed.append(new.address)
            await fleet.pool.refresh()
            names = {who(await ask(fleet.pool)) for _ in range(9)}
            assert names == {"r0", "r1", "r2"}
            await new.server.stop(0.0)

    go(scenario)


def test_a_new_replica_is_found_soon_after_an_old_one_is_lost(go: Go) -> None:
    """Also where nothing had happened for a while, and Serve needs a moment to start it."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            await asyncio.sleep(0.5)  # the pool has looked and found everybody there
            fleet.listed.clear()
            await fleet.replicas[0].server.stop(0.0)
            await asyncio.sleep(0.6)
            back = Replica("back")
            await back.start()
            fleet.listed.append(back.address)
            async with asyncio.timeout(4.0):
                await until(lambda: "back" in fleet.pool._links)
            assert who(await ask(fleet.pool)) == "back"
            await back.server.stop(0.0)

    go(scenario)


def test_calls_that_wait_for_room_go_to_a_replica_that_comes(go: Go) -> None:
    """The one that was there is full and silent."""

    async def scenario() -> None:
        async with a_fleet(1) as fleet:
            freeze(fleet.replicas[0])
            stuck = [asyncio.ensure_future(ask(fleet.pool)) for _ in range(WINDOW)]
            waiting = [asyncio.ensure_future(ask(fleet.pool)) for _ in range(3)]
            await asyncio.sleep(0)
            new = Replica("new")
            await new.start()
            fleet.listed.append(new.address)
            await fleet.pool.refresh()
            assert {who(answer) for answer in await asyncio.gather(*waiting)} == {"new"}
            for call in stuck:
                call.cancel()
            await asyncio.wait(stuck)
            await new.server.stop(0.0)

    go(scenario)


def test_a_pool_that_stops_while_it_connects_leaves_no_connection(go: Go) -> None:
    """Whoever listens there never greets."""

    async def scenario() -> None:
        ended = asyncio.Event()

        async def listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()
            ended.set()

        server = await asyncio.start_server(listen, HOST, 0)
        port = int(server.sockets[0].getsockname()[1])
        address = LinkAddress("mute", HOST, port, b"token")
        opening = asyncio.ensure_future(open_link(address, lambda: None, lambda: None))
        await asyncio.sleep(0.1)
        opening.cancel()
        await asyncio.wait([opening])
        await ended.wait()
        assert opening.cancelled()
        server.close()

    go(scenario)


def test_whoever_does_not_know_the_token_is_turned_away(go: Go) -> None:
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
            await until(lambda: fleet.replicas[0].refused == ["greeting"] * 3)
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


def test_a_stranger_that_says_nothing_is_let_go(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_call_with_a_garbled_body_ends_the_link_and_the_pool_connects_again(go: Go) -> None:
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
