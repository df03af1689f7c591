"""Who drives rollouts just now: one row with an owner and the time it is good for.

The only writer of that row. A lease saves work; what two holders do at once is kept apart by the
revision of the rollout's record.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import select

from cluster.rollouts.storing.control_transactions import ControlTransactions
from recsys.stores.control import control_tables as tables

CONTROLLER = "rollout-controller"
LEASE_MS = 10_000
"""A controller that says nothing for so long is followed by another."""


@dataclass(frozen=True, slots=True)
class Lease:
    """The controller's row, as last written."""

    owner: str
    renewed_ms: int
    expires_ms: int

    def is_held(self, now_ms: int) -> bool:
        """Whether its owner can be taken to be alive."""
        return self.renewed_ms - LEASE_MS <= now_ms < self.expires_ms


class ControllerLease:
    """Takes, renews, reads and gives back the lease, in the control store at `url`."""

    def __init__(self, url: str) -> None:
        self._store = ControlTransactions(url)

    def take(self, owner: str, now_ms: int) -> bool:
        """Take or renew it; False while another's is good.

        Raises:
            StoreError: the control store is away.
        """
        leases = tables.leases
        of_it = leases.c.name == CONTROLLER
        with self._store.change() as connection:
            row = connection.execute(select(leases).where(of_it)).mappings().first()
            held = None if row is None else _lease(row)
            if held is not None and held.owner != owner and held.is_held(now_ms):
                return False
            connection.execute(leases.delete().where(of_it))
            connection.execute(
                leases.insert().values(
                    name=CONTROLLER,
                    owner=owner,
                    renewed_ms=now_ms,
                    expires_ms=now_ms + LEASE_MS,
                )
            )
        return True

    def give_back(self, owner: str) -> None:
        """Let another take it at once; nothing where it is another's."""
        leases = tables.leases
        with self._store.change() as connection:
            mine = (leases.c.name == CONTROLLER, leases.c.owner == owner)
            connection.execute(leases.delete().where(*mine))

    def read(self) -> Lease | None:
        """The row, whether good or not; None where no controller ever ran."""
        query = select(tables.leases).where(tables.leases.c.name == CONTROLLER)

        def first(connection: object) -> Lease | None:
            row = connection.execute(query).mappings().first()  # type: ignore[attr-defined]
            return None if row is None else _lease(row)

        return self._store.read(first, None)

    def is_held(self, now_ms: int) -> bool:
        """Whether a controller lives."""
        lease = self.read()
        return lease is not None and lease.is_held(now_ms)


def _lease(row: object) -> Lease:
    return Lease(str(row["owner"]), int(row["renewed_ms"]), int(row["expires_ms"]))  # type: ignore[index]
