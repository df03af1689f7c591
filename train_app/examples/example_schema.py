"""One training row: a user, an item and a moment; every column with its meaning and unit.

`train_app.examples.example_set` writes them, as Parquet under `event_date=.../user_bucket=.../`.
Evolution only adds columns.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as pa_dataset

from recsys.feature_definitions import WINDOWS_S

SHOWN, SCORED, RETRIEVED, ORGANIC, RANDOM = "shown", "scored", "retrieved", "organic", "random"
STAGES = (SHOWN, SCORED, RETRIEVED, ORGANIC, RANDOM)
"""How far the item got: shown at a position; scored and not shown; retrieved and neither scored
nor shown; engaged with but not shown by us; drawn at random from the catalogue."""
MAX_USER_BUCKETS = 16
"""Small sets have fewer, by halves: a bucket of few is the union of buckets of many."""
PARTITION_COLUMNS = ("event_date", "user_bucket")
ITEM_COUNTS = tuple(
    f"item_{sign}_{window_s}s" for window_s in WINDOWS_S for sign in ("positives", "negatives")
)
USER_COUNTS = tuple(
    f"user_{sign}_{window_s}s" for window_s in WINDOWS_S for sign in ("positives", "negatives")
)
AS_OF_FEATURES = {"user": USER_COUNTS, "item": (*ITEM_COUNTS, "item_total")}
"""Features made by as-of joins, by group; `<group>_event_ms` and `<group>_known_ms` stand beside
them and say what the newest thing in them is."""

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()


def _column(name: str, kind: pa.DataType, comment: str) -> pa.Field:
    return pa.field(name, kind, metadata={"comment": comment})


LABEL = pa.struct(
    [
        pa.field("kind", _TEXT),  # of the engagement
        pa.field("after_ms", _INT),  # from the moment to the first engagement of the kind
        pa.field("value", _REAL),  # of the first one that had a value, else null
        pa.field("matched_by", _TEXT),  # `request`, `user_item` or `organic`
    ]
)

_COUNT_COMMENTS = {
    "positives": "engagements that are not of a negative kind",
    "negatives": "engagements of a negative kind",
}


def _counts(names: tuple[str, ...]) -> list[pa.Field]:
    fields = []
    for name in names:
        whose, sign, window = name.split("_")
        comment = f"{_COUNT_COMMENTS[sign]} of the {whose} before the moment, window of {window}"
        fields.append(_column(name, _INT, comment))
    return fields


def _known(group: str) -> list[pa.Field]:
    return [
        _column(f"{group}_event_ms", _INT, f"newest engagement in the {group}_ features, or null"),
        _column(f"{group}_known_ms", _INT, f"when the newest of the {group}_ features was known"),
    ]


EXAMPLES = pa.schema(
    [
        _column("example_id", _TEXT, "32 hexadecimal digits; equal events make equal ids"),
        _column("moment_id", _TEXT, "event id of the impression, or of the organic engagement"),
        _column("request_id", _TEXT, "the request that was answered; null for organic moments"),
        _column("user_id", _TEXT, "the user"),
        _column("item_id", _TEXT, "the item"),
        _column("timestamp_ms", _INT, "the moment, milliseconds since 1970 UTC"),
        _column("is_imported", pa.bool_(), "the moment is of imported history, not of the log"),
        _column("stage", _TEXT, ", ".join(STAGES)),
        _column("position", pa.int32(), "0-based place in the slate, null where not shown"),
        _column("propensity", _REAL, "probability of the item at its position given those above"),
        _column("source", _TEXT, "index, popular, fresh, ...; null for organic and random"),
        _column("score", _REAL, "the scorer's, as served; null where it was not asked"),
        _column("score_rank", pa.int32(), "0-based rank by score, of what was not shown"),
        _column("retrieval_score", _REAL, "as served"),
        _column("retrieval_rank", pa.int32(), "0-based rank within its source, as served"),
        _column("bundle_id", _TEXT, "the bundle that answered"),
        _column("variant", _TEXT, "stable, baseline or canary"),
        _column("labels", pa.list_(LABEL), "what the user did in the label window, first first"),
        _column("label_end_ms", _INT, "end of the label window (exclusive), ms since 1970 UTC"),
        _column(
            "log_q", _REAL, "random: log probability of one draw; retrieved: that it was logged"
        ),
        _column("n_drawn", pa.int32(), "how often it was drawn for the moment; null unless random"),
        _column("history_items", pa.list_(_TEXT), "newest items of the user, oldest first"),
        _column("history_is_logged", pa.bool_(), "as read when served; else as of the moment"),
        _column("history_version", _INT, "version of the user's state as served, else null"),
        _column("context", pa.map_(_TEXT, _TEXT), "context of the request"),
        *_counts(USER_COUNTS),
        *_known("user"),
        *_counts(ITEM_COUNTS),
        _column("item_total", _INT, "all engagements of the item before the moment, not negative"),
        *_known("item"),
        _column("known_ms", _INT, "when the newest value made by an as-of join was known, or null"),
        _column("event_date", pa.date32(), "UTC day of the moment, a partition of the files"),
        _column("user_bucket", pa.int32(), "hash of the user modulo the set's number of buckets"),
    ]
)


def open_examples(location: str | Path) -> pa_dataset.Dataset:
    """The examples under a directory, with their documented columns."""
    parts = pa.schema([EXAMPLES.field(name) for name in PARTITION_COLUMNS])
    partitioning = pa_dataset.partitioning(parts, flavor="hive")
    return pa_dataset.dataset(
        str(location), schema=EXAMPLES, format="parquet", partitioning=partitioning
    )


def user_bucket_sql(column: str, n_buckets: int) -> str:
    """SQL of a user's bucket; MD5, so that it is the same on every machine and version."""
    return f"(md5_number_lower({column}) % {int(n_buckets)})::INTEGER"
