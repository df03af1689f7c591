"""What refers to bundles at this moment: everything that would miss one that is gone.

Reads the control store and writes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import TracebackType

from cluster.bundles.part_leases import PartLeases
from cluster.bundles.pins import Pins
from cluster.rollouts.deciding.rollout_record import Rollout, earlier_stables
from cluster.rollouts.driving.living_rows import LivingRows
from cluster.rollouts.storing.control_writer import ControlWriter
from recsys.errors import ConfigError
from recsys.stores.control.control import NO_BUNDLE, ControlReader, Readiness
from recsys.traffic import STABLE


@dataclass(frozen=True, slots=True)
class References:
    """Bundle ids by what names them."""

    stable: str
    in_use: dict[str, str] = field(default_factory=dict)
    """Bundle id to who needs it now."""
    earlier: tuple[str, ...] = ()
    """Bundles that were stable before, the latest first."""
    pinned: frozenset[str] = frozenset()

    def reason(self, bundle_id: str) -> str | None:
        """Why the bundle cannot go whatever else is kept; None if nothing refers to it."""
        if bundle_id in self.pinned:
            return "pinned"
        return self.in_use.get(bundle_id)


class ReferenceReader:
    """Reads references from the control store at an SQLAlchemy URL, again at each call.

    Args:
        sleep: waits so many seconds, between looks at replicas that may live by another clock.
    """

    def __init__(self, url: str, sleep: Callable[[float], None] = time.sleep) -> None:
        self._url = url
        self._view = ControlReader(url)
        self._rollouts = ControlWriter(url)
        self._pins = Pins(url)
        self._leases = PartLeases(url)
        self._sleep = sleep
        self._now_ms = 0
        self._living = LivingRows(self._view.readiness, lambda: self._now_ms, self._pass)
        self._has_waited = False

    def __enter__(self) -> ReferenceReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._pins.close()
        self._leases.close()
        self._rollouts.close()

    def read(self, now_ms: int) -> References:
        """What refers to bundles now.

        Raises:
            StoreError: the store cannot be read, so nothing can be said of any bundle.
            ConfigError: nothing is stable, which is how a wrong control store looks.
        """
        view = self._view.view()
        rollouts = [stored.rollout for stored in self._rollouts.rollouts()]
        stable = view.aliases.get(STABLE)
        if stable is None:
            raise ConfigError(
                f"no bundle is stable in the control store {self._url}, so what is in use cannot "
                "be told, expected one; check control_store_url, or run 'cluster up --wait' first"
            )
        composing = self._leases.read(now_ms)
        in_use = {name: f"a part of what {owner} makes" for name, owner in composing.items()}
        for row in self._living_rows(now_ms):
            if row.bundle_id != NO_BUNDLE:
                in_use[row.bundle_id] = f"{row.state} in a running replica"
        for rollout in rollouts:
            if not rollout.is_closed:
                why = f"part of the unfinished rollout {rollout.rollout_id}"
                in_use.update(dict.fromkeys(_bundles_of(rollout), why))
        in_use.update(dict.fromkeys(view.beside, "part of an open shadow or experiment"))
        in_use.update(dict.fromkeys(view.required, "required of every replica"))
        planned = view.plan.bundle_ids if view.plan is not None else ()
        in_use.update(dict.fromkeys(planned, "in the traffic plan"))
        in_use.update({name: f"alias {alias}" for alias, name in view.aliases.items()})
        pinned = frozenset(pin.bundle_id for pin in self._pins.read())
        return References(stable, in_use, earlier_stables(rollouts, stable), pinned)

    def _living_rows(self, now_ms: int) -> list[Readiness]:
        """Rows of who was seen to live; the first time, waits to see whether silent ones move."""
        self._now_ms = now_ms
        seen: dict[tuple[str, str], Readiness] = {}

        def is_known(rows: list[Readiness]) -> bool:
            seen.update({(row.replica_id, row.bundle_id): row for row in rows if row.heartbeat_ms})
            names = {name for name, _ in seen}
            return self._has_waited or all(row.replica_id in names for row in rows)

        is_known(self._living.look_until(is_known))
        self._has_waited = True
        return list(seen.values())

    def _pass(self, seconds: float) -> None:
        self._sleep(seconds)
        self._now_ms += round(seconds * 1000)


def _bundles_of(rollout: Rollout) -> Iterator[str]:
    yield rollout.bundle_id
    yield rollout.stable_id
    yield from rollout.resident_before
    yield from rollout.resident_after
