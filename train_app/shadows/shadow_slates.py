"""The shadow's slates beside the live ones of the same requests, from the lake, as arrays.

Rewards, their label window and which slates can be used are `logged_slates`'; knows no estimator.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.settings import Settings
from train_app.checking.lake_views import open_lake_views
from train_app.off_policy.logged_slates import LoggedSlates, read_logged_slates
from train_app.shadows.shadow_value import Codes, PairedSlates
from train_app.shadows.uncopied_answers import Uncopied, count_uncopied

OK = 200
_NO_ITEM = -1


@dataclass(frozen=True)
class ShadowSlates:
    """Requests whose label window is closed, with both slates, and what was left out."""

    slates: PairedSlates
    bundle_ids: tuple[str, ...]
    """The shadow's bundle; more than one only if two shadows had one name."""
    left_out: Mapping[str, int]
    uncopied: Uncopied | None = None
    """Where the shadow's share is known."""


def read_shadow_slates(
    settings: Settings,
    shadow_id: str,
    *,
    now_ms: int,
    since_ms: int = 0,
    kind: str | None = None,
    share: float | None = None,
) -> ShadowSlates:
    """The shadow's answers with the slates that users got and what they did with them.

    Args:
        since_ms: only what was shown at or after this, such as when the shadow began.
        kind: what counts as a reward, as `read_logged_slates` takes it.
        share: of the requests that was to be copied; None if that is not known.

    Raises:
        StoreError: the lake cannot be read.
    """
    pairs, left_out, uncopied = _read_pairs(settings, shadow_id, now_ms, since_ms, share)
    logged = read_logged_slates(settings, now_ms=now_ms, since_ms=since_ms, kind=kind)
    found = {str(moment): row for row, moment in enumerate(logged.event_ids)}
    rows = [found.get(moment, _NO_ITEM) for moment in pairs["moment_id"].to_pylist()]
    usable = np.asarray(rows, np.int64) != _NO_ITEM
    left_out["unusable_or_window_open"] = int((~usable).sum())
    kept = pairs.filter(pa.array(usable))
    slates = _paired(kept, logged, np.asarray(rows, np.int64)[usable])
    bundles = tuple(sorted(set(pairs["bundle_id"].to_pylist())))
    return ShadowSlates(slates, bundles, {name: n for name, n in left_out.items() if n}, uncopied)


def _read_pairs(
    settings: Settings, shadow_id: str, now_ms: int, since_ms: int, share: float | None
) -> tuple[pa.Table, Counter[str], Uncopied | None]:
    """One row per answered copy with the slate of its request, and how many of what lack one."""
    with open_lake_views(settings, now_ms, now_ms) as views:
        connection = views.connection
        # An event that came twice, or a request that two impressions name, counts once.
        connection.execute(
            f"""CREATE OR REPLACE TEMP TABLE copies AS
            SELECT * FROM shadows WHERE shadow_id = $1 AND timestamp_ms >= {int(since_ms)}
            QUALIFY row_number() OVER (PARTITION BY user_id, request_id ORDER BY sequence) = 1""",
            [shadow_id],
        )
        connection.execute(f"""
            CREATE OR REPLACE TEMP TABLE pairs AS
            SELECT i.event_id AS moment_id, c.status, c.bundle_id, c.items AS shadow_items,
                c.live_items, list_transform(list_sort(list_transform(i.slate, lambda s:
                    {{'p': s.position, 'i': s.item_id}})), lambda s: s.i) AS slate_items
            FROM copies c LEFT JOIN (
                SELECT * FROM impressions WHERE timestamp_ms >= {int(since_ms)}
                QUALIFY row_number() OVER (PARTITION BY user_id, request_id ORDER BY sequence) = 1
            ) i USING (user_id, request_id)""")
        usable = f"""moment_id IS NOT NULL AND status = {OK} AND len(shadow_items) > 0
            AND slate_items = live_items"""
        counts = views.row(f"""SELECT count(*) FILTER (status <> {OK}) AS failed,
            count(*) FILTER (status = {OK} AND moment_id IS NULL) AS no_impression,
            count(*) FILTER (status = {OK} AND moment_id IS NOT NULL AND NOT ({usable}))
                AS other_slate FROM pairs""")
        table = connection.sql(
            f"SELECT moment_id, bundle_id, slate_items, shadow_items FROM pairs WHERE {usable}"
            " ORDER BY moment_id"
        ).to_arrow_table()
        uncopied = None if share is None else count_uncopied(views, shadow_id, share)
    return table, Counter({name: int(n) for name, n in counts.items()}), uncopied


def _paired(pairs: pa.Table, logged: LoggedSlates, rows: NDArray[np.int64]) -> PairedSlates:
    """Items as numbers, in the width of the live slates."""
    width = logged.rewards.shape[1] if len(rows) else 0
    lists = [pairs[name].combine_chunks() for name in ("slate_items", "shadow_items")]
    texts = pa.concat_arrays(
        [one.flatten().cast(pa.string()) for one in _flat(lists)] or [pa.array([], pa.string())]
    )
    codes = pc.dictionary_encode(texts)
    numbers = codes.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    n_live = sum(len(one.flatten()) for one in _flat(lists[:1]))
    return PairedSlates(
        live=_padded(lists[0], numbers[:n_live], width),
        shadow=_padded(lists[1], numbers[n_live:], width),
        propensities=logged.records.propensities[rows, :width],
        rewards=logged.rewards[rows, :width],
        users=logged.users[rows],
    )


def _flat(arrays: list[pa.Array | pa.ChunkedArray]) -> list[pa.Array]:
    found: list[pa.Array] = []
    for one in arrays:
        found += one.chunks if isinstance(one, pa.ChunkedArray) else [one]
    return found


def _padded(lists: pa.Array | pa.ChunkedArray, numbers: Codes, width: int) -> Codes:
    """Lists of different lengths as one array [R, K]; what is beyond K is cut off."""
    lengths = np.asarray([len(one) for one in lists.to_pylist()], np.int64)
    out = np.full((len(lengths), int(max(width, lengths.max(initial=0)))), _NO_ITEM)
    out[np.arange(out.shape[1]) < lengths[:, None]] = numbers
    return out[:, :width]
