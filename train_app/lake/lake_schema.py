"""The lake's tables: every column, its type and its unit. Evolution only adds columns.

Every table is partitioned by `event_date`, the UTC day of its rows.
"""

from __future__ import annotations

import pyarrow as pa

PARTITION_COLUMN = "event_date"


def _column(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, kind, metadata={"comment": comment})


_TEXT = pa.string()
_INT = pa.int64()
_REAL = pa.float64()

_RECEIVED = _column("received_at_ms", _INT, "when Flywheel got it, milliseconds since 1970 UTC")
_TIME = _column("timestamp_ms", _INT, "when it happened, milliseconds since 1970 UTC")
_ID = _column("event_id", _TEXT, "unique in its table; an import derives it from the row")
_PLACE = (
    _column("sequence", _INT, "order of arrival: log offset, or row number of the imported file"),
    _column("log_partition", pa.int32(), "partition of the event log; null for an import"),
    _column("log_offset", _INT, "offset in that partition; null for an import"),
    _column(PARTITION_COLUMN, pa.date32(), "UTC day, the partition of the table"),
)
_REQUEST = (
    _column("request_id", _TEXT, "the request that was answered"),
    _column("user_id", _TEXT, "the user"),
    _TIME,
    _column("bundle_id", _TEXT, "the bundle that answered"),
    _column("variant", _TEXT, "stable, baseline, canary, or the side of an experiment"),
)
_ITEM, _SCORE = pa.field("item_id", _TEXT), pa.field("score", _REAL)
_RETRIEVAL = [
    pa.field("source", _TEXT),
    pa.field("retrieval_score", _REAL),
    pa.field("retrieval_rank", pa.int32()),
]
_CANDIDATE = [_ITEM, _SCORE, *_RETRIEVAL]
_SHOWN = pa.struct([*_CANDIDATE, pa.field("position", pa.int32()), pa.field("propensity", _REAL)])
_UNSHOWN = pa.struct([*_CANDIDATE, pa.field("score_rank", pa.int32())])
_DROPPED = pa.struct([_ITEM, *_RETRIEVAL])

ENGAGEMENTS = pa.schema(
    [
        _ID,
        _column("kind", _TEXT, "view, click, purchase, rating, ..."),
        _column("user_id", _TEXT, "the user"),
        _column("item_id", _TEXT, "the item"),
        _TIME,
        _RECEIVED,
        _column("request_id", _TEXT, "the request that showed the item, null where unknown"),
        _column("position", pa.int32(), "0-based place in that slate, null where unknown"),
        _column("value", _REAL, "graded relevance such as a rating, null where there was none"),
        _column("origin", _TEXT, "api, import or simulation"),
        *_PLACE,
    ]
)

IMPRESSIONS = pa.schema(
    [
        _ID,
        *_REQUEST,
        _column("experiment", _TEXT, "rollout or experiment of the request, null where none"),
        _column("experiments", pa.list_(_TEXT), "sides it was answered under, EXPERIMENT_ID:ARM"),
        _column("slate", pa.list_(_SHOWN), "what was shown, by 0-based position"),
        _column("unshown", pa.list_(_UNSHOWN), "a sample of the scored and not shown"),
        _column("dropped", pa.list_(_DROPPED), "a uniform draw of the retrieved and not scored"),
        _column("n_dropped", _INT, "how many it was drawn from; null in rows of older releases"),
        _column("history_version", _INT, "version of the user's state that was read"),
        _column("history_items", pa.list_(_TEXT), "newest items the user tower read, oldest first"),
        _column("context", pa.map_(_TEXT, _TEXT), "context of the request"),
        _column("coverage", _REAL, "share of the item index that was searched, 0 to 1"),
        _column("degraded", pa.list_(_TEXT), "reasons why the answer was less than whole"),
        _column("stage_ms", pa.map_(_TEXT, _REAL), "latency of each stage, milliseconds"),
        _column("diversity", _REAL, "1 - mean cosine of category sets of all pairs shown, or null"),
        _column("novelty", _REAL, "mean self-information of items shown, bits, or null"),
        *_PLACE,
    ]
)

OUTCOMES = pa.schema(
    [
        _ID,
        *_REQUEST,
        _column("status", pa.int32(), "HTTP status"),
        _column("reason", _TEXT, "why it failed, was shed or degraded"),
        _column("latency_ms", _REAL, "milliseconds"),
        _column("experiment", _TEXT, "rollout or experiment of the request, null where none"),
        _column("n_requests", _INT, "requests the record stands for; null is 1"),
        *_PLACE,
    ]
)

SHADOWS = pa.schema(
    [
        _ID,
        _column("request_id", _TEXT, "the live request that was copied"),
        _column("user_id", _TEXT, "the user"),
        _TIME,
        _column("shadow_id", _TEXT, "the shadow that was asked"),
        _column("bundle_id", _TEXT, "the shadow's bundle"),
        _column("live_bundle_id", _TEXT, "the bundle that answered the user"),
        _column("status", pa.int32(), "HTTP status a user would have got from the shadow"),
        _column("reason", _TEXT, "why it failed, empty where it did not"),
        _column("live_items", pa.list_(_TEXT), "the slate the user got, in order"),
        _column("items", pa.list_(_TEXT), "the shadow's slate, in order; nobody saw it"),
        _column("propensities", pa.list_(_REAL), "of `items` under the shadow's policy, 0 to 1"),
        _column("live_ms", _REAL, "time of the live answer in the pipeline, milliseconds"),
        _column("shadow_ms", _REAL, "likewise of the shadow's, milliseconds"),
        _column("degraded", pa.list_(_TEXT), "reasons why the shadow's was less than whole"),
        *_PLACE,
    ]
)

CATALOGUE = pa.schema(
    [
        _ID,
        _column("item_id", _TEXT, "the item; its row with the newest timestamp_ms is in force"),
        _TIME,
        _column("deleted", pa.bool_(), "true takes the item out of the catalogue"),
        _column("title", _TEXT, "title, empty where unknown"),
        _column("categories", pa.list_(_TEXT), "categories, the first one is the main one"),
        _column("creator", _TEXT, "artist, author, seller, empty where unknown"),
        _column("created_ms", _INT, "when the item appeared, milliseconds since 1970 UTC"),
        *_PLACE,
    ]
)

USERS = pa.schema(
    [
        _ID,
        _column("user_id", _TEXT, "the user; its row with the newest timestamp_ms is in force"),
        _TIME,
        _column("attributes", pa.map_(_TEXT, _TEXT), "the file's other columns by name"),
        *_PLACE,
    ]
)

QUARANTINE = pa.schema(
    [
        _ID,
        _column("source", _TEXT, "name of the imported file, or 'log'"),
        _column("line", _INT, "1-based line or row of the file, null for the log"),
        _column("reason", _TEXT, "what is wrong with it"),
        _column("raw", _TEXT, "the record as it came, its first 1000 characters"),
        _column("user_id", _TEXT, "the user it is of, null where it could not be told"),
        _RECEIVED,
        *_PLACE,
    ]
)

SKIPPED = pa.schema(
    [
        _ID,
        _column("reason", _TEXT, "void, repeated, forgetting, forgotten or gap"),
        _column("end_offset", _INT, "the offset after it; a gap may be many records long"),
        _RECEIVED,
        *_PLACE,
    ]
)

TABLES: dict[str, pa.Schema] = {
    "engagements": ENGAGEMENTS,
    "impressions": IMPRESSIONS,
    "outcomes": OUTCOMES,
    "shadows": SHADOWS,
    "catalogue": CATALOGUE,
    "users": USERS,
    "quarantine": QUARANTINE,
    "skipped": SKIPPED,
}
LATER_TABLES = ("skipped", "shadows")
"""Log tables that lakes of earlier releases lack.

They are committed before all others, so one without a mark where another table has one was not
there when that was filled.
"""
LOG_TABLES = (
    *LATER_TABLES,
    "quarantine",
    "engagements",
    "impressions",
    "outcomes",
    "catalogue",
)
"""Tables filled from the log, in the order they are committed; every offset is in one of them.

`skipped` says of the offsets that gave no row elsewhere why they did not.
"""
TIME_COLUMNS = {"quarantine": "received_at_ms", "skipped": "received_at_ms"}
"""The column that decides a row's day, where it is not `timestamp_ms`."""
MAX_RAW_CHARS = 1000
