"""All links of a gateway to one stage: which replica is asked, and who is there at all.

Who is there is Serve's to say (`find`); a call goes to the replica with the fewest under way, and
a call whose replica is lost, late or lacks the bundle is made once more, at another: stages are
pure.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from recsys.link_certificates import LinkCertificates
from recsys.types import Batch
from serve_app.links.first_answer import first_answer
from serve_app.links.handshake import LinkAddress
from serve_app.links.hedge_rule import HedgeRules
from serve_app.links.link import Link, LinkLost, open_link
from serve_app.stages.placement import StageAway

logger = logging.getLogger("ray.serve")

WINDOW = 8
"""Calls one gateway has under way at one replica for one bundle; more wait here, where they can be
dropped. Each bundle has a window of its own, so one that hangs takes no room of another's."""
MAX_ASKED = 2
"""Replicas asked for one answer."""
PATIENT_BEATS = 10
"""A replica that was asked so often for a sign of life, in vain, is given up."""
LOOK_S = 5.0
"""How often Serve is asked who is there while nothing seems to change."""
LOOK_AGAIN_S = 0.2
"""The same while a replica is missing; doubled up to `LOOK_S`."""
BEAT_S = 1.0
FIND_S = 3.0
"""How long Serve may take to say who is there."""


@dataclass(frozen=True, slots=True)
class Roster:
    """The replicas that Serve runs."""

    addresses: Sequence[LinkAddress]
    n_silent: int = 0
    """Those that did not say where they listen: slow, starting, or on their way out."""


@dataclass(slots=True)
class _Refusal:
    """A replica that could not be reached: when to try again."""

    n_times: int = 0
    next_s: float = 0.0


class LinkPool:
    """The links to one stage.

    Args:
        stage: for messages.
        find: the replicas that Serve runs now; may fail.
        rng: spreads the attempts of several gateways over time.
        on_hedge: told of each call that a second replica is asked for because the first is late.
        certificates: of the links, where they are encrypted.
    """

    def __init__(
        self,
        stage: str,
        find: Callable[[], Awaitable[Roster]],
        rng: random.Random,
        on_hedge: Callable[[], None] = lambda: None,
        certificates: LinkCertificates | None = None,
    ) -> None:
        self._stage = stage
        self._find = find
        self._rng = rng
        self._on_hedge = on_hedge
        self._certificates = certificates
        self._hedges = HedgeRules()
        self._links: dict[str, Link] = {}
        self._refusals: dict[str, _Refusal] = {}
        self._room = asyncio.Event()
        self._look = asyncio.Event()
        self._n_found = 0
        self._unlisted: set[str] = set()
        self._turn = 0
        self._task: asyncio.Task[None] | None = None

    async def ask(
        self, method: str, bundle_id: str, batch: Batch, time_left_s: float
    ) -> Batch | None:
        """The answer of one replica; None where two, or the only one, do not hold the bundle.

        Raises:
            StageAway: none is connected, or two were lost.
            StageError: the stage failed on the batch.
        """
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + time_left_s
        asked: set[str] = set()
        lacks_it = False
        while len(asked) < MAX_ASKED:
            try:
                link = await self._free_link(bundle_id, asked, may_wait=not lacks_it)
            except StageAway:
                if lacks_it:
                    break
                raise
            asked.add(link.address.replica_id)
            try:
                answer = await self._ask_one(link, method, bundle_id, batch, deadline_s, asked)
            except LinkLost as error:
                logger.warning("%s: %s", self._stage, error)
                continue
            if answer is not None:
                return answer
            # While a bundle comes or goes, replicas differ.
            lacks_it = True
        if lacks_it:
            return None
        raise StageAway(f"{len(asked)} replicas of {self._stage} went away during one call")

    async def _ask_one(
        self,
        link: Link,
        method: str,
        bundle_id: str,
        batch: Batch,
        deadline_s: float,
        asked: set[str],
    ) -> Batch | None:
        """The answer of a replica, or of another that is asked as well once the first is late."""
        loop = asyncio.get_running_loop()
        rule = self._hedges.of(method, bundle_id)
        delay_s = rule.delay_s() if len(asked) < MAX_ASKED <= len(self._links) else None
        began_s = loop.time()
        attempts = [link.send(method, bundle_id, batch, deadline_s - began_s)]
        try:
            if delay_s is not None:
                await asyncio.wait((attempts[0].answered,), timeout=delay_s)
                other = None if attempts[0].answered.done() else self._with_room(bundle_id, asked)
                if other is not None:
                    asked.add(other.address.replica_id)
                    rule.spend()
                    self._on_hedge()
                    attempts.append(other.send(method, bundle_id, batch, deadline_s - loop.time()))
            answer = await first_answer(attempts)
            rule.answered(loop.time() - began_s)
            return answer
        finally:
            for attempt in attempts:
                attempt.end()

    async def start(self) -> None:
        """Connect to whoever is there, and keep in step until `stop`."""
        await self.refresh()
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Close every link."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        for link in self._links.values():
            link.close()

    async def refresh(self) -> None:
        """Ask Serve who is there; connect to the new, let go of the gone."""
        try:
            async with asyncio.timeout(FIND_S):
                found = await self._find()
        except Exception as error:
            # Serve knows no replica yet, or its controller is away: the links at hand stay.
            logger.info("the replicas of %s are not known: %r", self._stage, error)
        else:
            self._n_found = len(found.addresses) + found.n_silent
            there = {address.replica_id for address in found.addresses}
            # As long as one is silent, a link may be that one's.
            self._unlisted = set() if found.n_silent else self._links.keys() - there
            for replica_id in self._refusals.keys() - there:
                del self._refusals[replica_id]
            self._sweep()
            await asyncio.gather(*(self._connect(address) for address in found.addresses))
        self._sweep()

    def _sweep(self) -> None:
        """Forget lost links, and close those of leaving replicas once others can take over."""
        for replica_id, link in tuple(self._links.items()):
            if not self._is_staying(link) and self._n_staying() and not link.n_outstanding:
                link.close()
            if not link.is_open:
                del self._links[replica_id]

    async def _connect(self, address: LinkAddress) -> None:
        now_s = asyncio.get_running_loop().time()
        refusal = self._refusals.get(address.replica_id)
        if address.replica_id in self._links or (refusal and now_s < refusal.next_s):
            return
        tls = None if self._certificates is None else self._certificates.contexts().client
        try:
            self._links[address.replica_id] = await open_link(
                address, self._on_room, self._on_leave, tls
            )
            self._refusals.pop(address.replica_id, None)
            self._on_room()
        except LinkLost as error:
            refusal = self._refusals.setdefault(address.replica_id, _Refusal())
            refusal.n_times += 1
            pause_s = min(LOOK_S, LOOK_AGAIN_S * 2**refusal.n_times)
            refusal.next_s = now_s + pause_s * (0.5 + self._rng.random())
            logger.warning("%s cannot be linked: %s", self._stage, error)

    async def _keep(self) -> None:
        """Beat every second; look who is there when a replica goes, and now and then."""
        loop = asyncio.get_running_loop()
        pause_s, looked_s, beaten_s = LOOK_AGAIN_S, loop.time(), loop.time()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause_s, BEAT_S)):
                    await self._look.wait()
            if loop.time() - beaten_s >= BEAT_S:
                beaten_s = loop.time()
                for link in tuple(self._links.values()):
                    link.beat(PATIENT_BEATS)
            self._sweep()
            if self._look.is_set():
                # What goes is seldom replaced at once: from here on look often for a while.
                pause_s = LOOK_AGAIN_S
            elif loop.time() - looked_s < pause_s:
                continue
            self._look.clear()
            try:
                await self.refresh()
            except Exception:
                logger.exception("the links of %s could not be renewed; trying again", self._stage)
            looked_s = loop.time()
            is_whole = self._n_staying() >= max(1, self._n_found)
            pause_s = LOOK_S if is_whole else min(LOOK_S, 2 * pause_s)
            # Several replicas that go together are one reason to look.
            await asyncio.sleep(LOOK_AGAIN_S)

    def _is_staying(self, link: Link) -> bool:
        is_listed = link.address.replica_id not in self._unlisted
        return link.is_open and is_listed and not link.is_leaving

    def _n_staying(self) -> int:
        return sum(map(self._is_staying, self._links.values()))

    def _on_room(self) -> None:
        """Everybody who waits looks again: they are few, and none is forgotten."""
        self._room.set()
        self._room.clear()

    def _on_leave(self) -> None:
        self._look.set()
        self._on_room()

    async def _free_link(self, bundle_id: str, asked: set[str], *, may_wait: bool) -> Link:
        while True:
            link = self._with_room(bundle_id, asked)
            if link is not None:
                return link
            if not self._usable(asked):
                raise StageAway(f"no replica of {self._stage} is connected")
            if not may_wait:
                # The caller has another bundle to ask for, and its time is better spent there.
                raise StageAway(f"every other replica of {self._stage} is busy")
            await self._room.wait()

    def _usable(self, asked: set[str]) -> list[Link]:
        """The replicas not asked yet: those that stay, or if there are none, those that leave."""
        usable = [
            link
            for replica_id, link in self._links.items()
            if link.is_open and replica_id not in asked
        ]
        return list(filter(self._is_staying, usable)) or usable

    def _with_room(self, bundle_id: str, asked: set[str]) -> Link | None:
        """Of the usable replicas with room for the bundle, the least busy; ties take turns."""
        roomy = [link for link in self._usable(asked) if link.n_asked_for(bundle_id) < WINDOW]
        if not roomy:
            return None
        self._turn = (self._turn + 1) % len(roomy)
        turned = roomy[self._turn :] + roomy[: self._turn]
        return min(turned, key=lambda link: link.burden)
