"""Everything the embedded feature store holds, and one canonical form of any store's contents.

For comparisons (replayed, rebuilt, killed: the same bytes) and small stores: all of it in memory.
"""

from __future__ import annotations

import sqlite3

import msgspec

from recsys.stores.features.feature_tables import decode_fields, decode_history
from recsys.stores.features.feature_update import FeatureContents
from recsys.types import UserState


def canonical_bytes(contents: FeatureContents) -> bytes:
    """The same bytes for the same contents, whatever store they were read from: JSON lines."""
    lines: list[tuple[object, ...]] = []
    for partition, (offset, watermark_ms) in contents.partitions.items():
        lines.append(("partition", partition, offset, watermark_ms, contents.n_seen[partition]))
    for state in contents.states.values():
        lines.append(("user", state.user_id, state.version, tuple(state.history)))
    for (partition, bucket), counts in contents.item_counts.items():
        lines.append(("item", partition, *bucket, *counts))
    for (partition, pair), n in contents.pair_counts.items():
        lines.append(("pair", partition, *pair, n))
    for item_id, fields in contents.catalogue.items():
        lines.append(("catalogue", item_id, *fields))
    for item_id, n in contents.imported_counts.items():
        lines.append(("imported", item_id, n))
    return b"\n".join(sorted(msgspec.json.encode(line) for line in lines))


def read_contents(connection: sqlite3.Connection) -> FeatureContents:
    """The contents of the embedded store; call inside a transaction."""
    partitions = connection.execute("SELECT * FROM partitions").fetchall()
    users = connection.execute("SELECT user_id, history, version FROM users")
    items = connection.execute(
        "SELECT partition, window_s, bucket_ms, item_id, positives, negatives FROM item_counts"
    )
    pairs = connection.execute(
        "SELECT partition, day, item_id, other_id, n FROM pairs JOIN partitions USING (partition)"
        " WHERE day >= pairs_since_day"
    )
    seen = connection.execute(
        "SELECT partition, count(*) FROM seen JOIN partitions USING (partition)"
        " WHERE seen_ms >= seen_since_ms GROUP BY partition"
    )
    catalogue = connection.execute("SELECT item_id, deleted, fields FROM catalogue")
    return FeatureContents(
        partitions={row[0]: (row[1], row[2]) for row in partitions},
        states={u: UserState(u, decode_history(u, blob), v) for u, blob, v in users},
        item_counts={(p, (w, b, item)): (n, m) for p, w, b, item, n, m in items},
        pair_counts={(p, (day, item, other)): n for p, day, item, other, n in pairs},
        catalogue={
            item: (bool(deleted), *msgspec.structs.astuple(decode_fields(item, fields)))
            for item, deleted, fields in catalogue
        },
        imported_counts=dict(connection.execute("SELECT * FROM imported_counts").fetchall()),
        n_seen={row[0]: 0 for row in partitions} | dict(seen.fetchall()),
    )
