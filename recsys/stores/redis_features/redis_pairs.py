"""What is made of the pairs in Redis, and what is swept away of them; called by
`redis_feature_writer` alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from recsys.stores.features.feature_update import Expiry, PairTotals, Ranked
from recsys.stores.redis_features import redis_keys as keys
from recsys.stores.redis_features.redis_link import Command, RedisLink
from recsys.stores.redis_features.redis_update import (
    MAX_PER_COMMAND,
    neighbour_commands,
    parts,
    per_command,
    stale_commands,
)

MAX_SWEPT_ITEMS = 100
MAX_SWEPT_IDS = 5_000
"""Expired things deleted after one update at most: a day's end must not stop the stream."""

_TAKE_AWAY = """
for i = 1, #ARGV, 2 do
  if redis.call('HINCRBY', KEYS[1], ARGV[i], -ARGV[i + 1]) <= 0 then
    redis.call('HDEL', KEYS[1], ARGV[i])
  end
end
"""


def refresh_neighbours(
    link: RedisLink,
    limit: int,
    since_day: int,
    rank: Callable[[PairTotals], Mapping[str, Ranked]],
) -> int:
    """Make the neighbours of stale items anew; how many.

    They move to `making` before their pairs are read: a pair that comes afterwards marks its items
    as stale again, and whoever dies in between leaves them to the next one.
    """
    if limit < 1:
        return 0
    left, waiting = link.ask(
        [("ZRANGE", keys.MAKING, 0, limit - 1), ("ZRANGE", keys.STALE, 0, limit - 1)]
    )
    taken = waiting[: limit - len(left)]
    if not left and not taken:
        return 0
    link.transact([], [], lambda _: _take(taken))
    n_made = 0

    def decide(answers: list[Any]) -> list[Command] | None:
        nonlocal n_made
        item_ids = [item_id.decode() for item_id in answers[0]]
        store, version = keys.decode_mark(answers[1])
        n_made = len(item_ids)
        if not item_ids:
            return None
        ranked = rank(_pair_totals(link, item_ids, since_day))
        return neighbour_commands(item_ids, ranked, store or uuid4().hex, version)

    link.transact(
        [keys.MAKING, keys.NEIGHBOURS_MARK],
        [("ZRANGE", keys.MAKING, 0, limit - 1), ("GET", keys.NEIGHBOURS_MARK)],
        decide,
    )
    return n_made


def sweep(link: RedisLink, partition: int, expiry: Expiry) -> None:
    """Delete some of a partition's expired event ids and pairs."""
    expired_ids = ("ZRANGEBYSCORE", keys.seen_key(partition), "-inf", f"({expiry.seen_before_ms}")
    reads: list[Command] = [
        (*expired_ids, "LIMIT", 0, MAX_SWEPT_IDS),
        ("SMEMBERS", keys.days_key(partition)),
    ]
    found, days = link.ask(reads)
    expired_days = sorted(day for day in map(int, days) if day < expiry.pairs_before_day)
    if expired_days:
        _sweep_day(link, partition, expired_days[0])
    if found:
        link.transact(
            [keys.part_key(partition)],
            [reads[0]],
            lambda answers: list(per_command(("ZREM", keys.seen_key(partition)), answers[0])),
        )


def _take(item_ids: Sequence[bytes]) -> list[Command]:
    members = (part for item_id in item_ids for part in (0, item_id))
    return [
        *per_command(("ZADD", keys.MAKING, "NX"), members),
        *per_command(("ZREM", keys.STALE), item_ids),
    ]


def _pair_totals(link: RedisLink, item_ids: Sequence[str], since_day: int) -> PairTotals:
    pairs: dict[str, Mapping[str, int]] = {}
    answers = link.ask([("HGETALL", keys.pairs_key(item_id)) for item_id in item_ids])
    for item_id, flat in zip(item_ids, answers, strict=True):
        partners: Counter[str] = Counter()
        for field, n in keys.fields_of(flat).items():
            _, day, other_id = keys.named_pair(field)
            if day >= since_day and other_id != item_id:
                partners[other_id] += int(n)
        pairs[item_id] = dict(partners)
    named = list({*pairs, *(other_id for partners in pairs.values() for other_id in partners)})
    commands: list[Command] = [
        ("HMGET", keys.DEGREES, *part) for part in parts(named, MAX_PER_COMMAND)
    ]
    degrees = [n for answer in link.ask(commands) for n in answer]
    known = zip(named, degrees, strict=True)
    return PairTotals(pairs, {item_id: int(n) for item_id, n in known if n is not None})


def _sweep_day(link: RedisLink, partition: int, day: int) -> None:
    """Delete the pairs of some items on an expired day; of a day without any, the day."""
    paired = keys.paired_key(partition, day)
    (chosen,) = link.ask([("SRANDMEMBER", paired, MAX_SWEPT_ITEMS)])
    item_ids = [item_id.decode() for item_id in chosen]

    def decide(answers: list[Any]) -> list[Command]:
        top, *hashes = answers
        commands: list[Command] = []
        degrees: list[str | int] = []
        for item_id, flat in zip(item_ids, hashes, strict=True):
            expired = [
                (field, other_id, int(n))
                for field, n in keys.fields_of(flat).items()
                for field_partition, field_day, other_id in [keys.named_pair(field)]
                if (field_partition, field_day) == (partition, day)
            ]
            fields = (field for field, _, _ in expired)
            commands += per_command(("HDEL", keys.pairs_key(item_id)), fields)
            for _, other_id, n in expired:
                degrees += [item_id, n] if other_id == item_id else []
        place = int(float(top[1])) + 1 if top else 1
        return [
            *commands,
            *per_command(("EVAL", _TAKE_AWAY, 1, keys.DEGREES), degrees),
            *stale_commands(item_ids, place),
            *(per_command(("SREM", paired), item_ids)),
            *([] if item_ids else [("SREM", keys.days_key(partition), day)]),
        ]

    link.transact(
        [keys.part_key(partition)],
        [
            ("ZREVRANGE", keys.STALE, 0, 0, "WITHSCORES"),
            *(("HGETALL", keys.pairs_key(item_id)) for item_id in item_ids),
        ],
        decide,
    )
