"""What the making of examples depends on beside the data: windows, bounds and draws."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.settings import Settings
from train_app.examples.example_schema import MAX_USER_BUCKETS

UNIFORM_SHARE = 0.5
"""Of the random draws; the rest follow popularity, where hard negatives lie."""


ROWS_PER_PART_AND_MB = 1_000
"""Of joined rows: the labels, histories and lists of a part are what cannot spill."""
ROWS_PER_USER_BUCKET = 2_000_000


@dataclass(frozen=True, slots=True)
class ExampleOptions:
    """What a caller may choose."""

    n_random: int = 4
    """Items drawn per moment that ends in a positive; 0 draws none."""
    with_organic: bool = True
    """Whether engagements that no slate of ours led to become examples."""


DEFAULT_OPTIONS = ExampleOptions()


@dataclass(frozen=True, slots=True)
class ExampleRules:
    """The rules of one set of examples; equal rules and lake versions make equal examples."""

    until_ms: int
    """Nothing that happened at or after this is read: the split's cutoff."""
    closed_live_ms: int
    """Label windows of moments of the log end by then, or their examples are left out."""
    closed_import_ms: int
    """Likewise, of moments of imported history."""
    label_window_ms: int
    lateness_ms: int
    history_limit: int
    """Engagements that the online history holds; user counts see no more."""
    history_length: int
    """Items in `history_items`."""
    negative_kinds: tuple[str, ...]
    n_random: int
    with_organic: bool
    seed: int
    n_user_buckets: int = 1
    """Partitions by user of each day's files."""
    n_parts: int = 1
    """Parts by user, then by item, that are joined one after the other or on several machines."""

    def closed_sql(self, moments: str) -> str:
        """SQL of whether a moment's label window is closed.

        Args:
            moments: alias of rows with `is_imported` and `timestamp_ms`.
        """
        closed = (
            f"CASE WHEN {moments}.is_imported THEN {self.closed_import_ms}"
            f" ELSE {self.closed_live_ms} END"
        )
        return f"({moments}.timestamp_ms + {self.label_window_ms} <= {closed})"


def rules_of(
    settings: Settings,
    options: ExampleOptions,
    *,
    until_ms: int,
    newest_live_ms: int,
    newest_import_ms: int,
    n_rows: int,
) -> ExampleRules:
    """The rules that settings, options and the bounds of the data give.

    Args:
        newest_live_ms: up to when the log has been read into the lake.
        newest_import_ms: the newest imported engagement.
        n_rows: about how many rows will be joined.
    """
    return ExampleRules(
        until_ms=until_ms,
        closed_live_ms=min(until_ms, newest_live_ms),
        closed_import_ms=min(until_ms, newest_import_ms),
        label_window_ms=settings.train.label_window_s * 1000,
        lateness_ms=settings.features.lateness_s * 1000,
        history_limit=settings.features.history_limit,
        history_length=max(settings.serve.log_history, 1),
        negative_kinds=settings.events.negative_kinds,
        n_random=options.n_random,
        with_organic=options.with_organic,
        seed=settings.train.seed,
        n_user_buckets=_n_user_buckets(n_rows),
        n_parts=max(1, -(-n_rows // (settings.train.memory_mb * ROWS_PER_PART_AND_MB))),
    )


def _n_user_buckets(n_rows: int) -> int:
    """A power of two, so that the files of a small set stay few."""
    n_buckets = 1
    while n_buckets < MAX_USER_BUCKETS and n_buckets * ROWS_PER_USER_BUCKET < n_rows:
        n_buckets *= 2
    return n_buckets
