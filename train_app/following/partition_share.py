"""Which partitions of the log a replica follows, from the replicas that live. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

import xxhash

from recsys.stores.control.membership import Member


def share_of(
    replica_id: str, living: Collection[str], partitions: Collection[int]
) -> frozenset[int]:
    """The partitions of one replica, among those that live and itself.

    For one view of who lives every partition has exactly one owner, loads differ by one at most,
    and a replica that comes or goes moves few partitions besides its own.
    """
    replicas = sorted({*living, replica_id})
    owners = owners_of(replicas, sorted(set(partitions)))
    return frozenset(partition for partition, owner in owners.items() if owner == replica_id)


def owners_of(replicas: list[str], partitions: list[int]) -> dict[int, str]:
    """The owner of each partition: rendezvous hashing with equal loads.

    Every pair of replica and partition has a fixed rank; pairs are taken in order of rank as long
    as the partition is free and the replica has room. Some replica always has room for a partition
    that is left: there is room for exactly as many as there are.
    """
    floor, n_extra = divmod(len(partitions), len(replicas))
    ranked = sorted(
        (xxhash.xxh64_intdigest(f"{replica}/{partition}".encode()), replica, partition)
        for replica in replicas
        for partition in partitions
    )
    owners: dict[int, str] = {}
    loads = dict.fromkeys(replicas, 0)
    for _, replica, partition in ranked:
        if partition in owners:
            continue
        if loads[replica] == floor and n_extra:
            n_extra -= 1
        elif loads[replica] >= floor:
            continue
        loads[replica] += 1
        owners[partition] = replica
    return owners


@dataclass(frozen=True, slots=True)
class Sighting:
    """A replica's last heartbeat, and when it was first seen to be this one."""

    heartbeat_ms: int
    seen_s: float
    """Of the watcher's own monotonic clock; minus infinity where it was old at first sight."""


def watch_members(
    before: Mapping[str, Sighting],
    members: Iterable[Member],
    now_ms: int,
    clock_s: float,
    timeout_s: float,
) -> dict[str, Sighting]:
    """The sightings after reading the members' rows.

    A heartbeat counts as heard when it changes. The clocks of two machines are compared at first
    sight only, so that a clock that jumps takes nobody's partitions away for longer than that.
    """
    now: dict[str, Sighting] = {}
    for member in members:
        known = before.get(member.replica_id)
        if known is not None and known.heartbeat_ms == member.heartbeat_ms:
            now[member.replica_id] = known
            continue
        is_fresh = known is not None or abs(now_ms - member.heartbeat_ms) <= timeout_s * 1000
        is_heard = is_fresh and member.heartbeat_ms > 0
        seen_s = clock_s if is_heard else float("-inf")
        now[member.replica_id] = Sighting(member.heartbeat_ms, seen_s)
    return now


def living(
    sightings: Mapping[str, Sighting],
    members: Iterable[Member],
    clock_s: float,
    timeout_s: float,
) -> frozenset[str]:
    """The replicas that were heard of lately and make progress."""
    return frozenset(
        member.replica_id
        for member in members
        if not member.problem and clock_s - sightings[member.replica_id].seen_s <= timeout_s
    )
