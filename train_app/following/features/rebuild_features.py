"""Makes the feature store anew from the lake, beside the old one, and swaps it in.

Part of its one writer, `stream_features`. What the log holds beyond the lake is taken in by
whoever follows the log next.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from recsys.errors import DataError
from recsys.settings import Settings
from recsys.stores.features.feature_draft import FeatureDraft, open_feature_draft
from recsys.stores.features.open_features import open_feature_writer
from recsys.stores.log import open_log
from recsys.stores.log.event_log import EventLog
from train_app.following.features.feature_fold import FoldRules, fold_rules
from train_app.following.features.feature_records import DecodedPart
from train_app.following.features.forgotten_since import forget_since
from train_app.following.features.publish_lists import ListPublisher
from train_app.following.features.replay_lake import replay
from train_app.following.lake_snapshot import LakeTables, find_tables
from train_app.following.store_part import store_part

Progress = Callable[[int], None]
"""Told how many rows and users have been taken in so far."""


@dataclass(frozen=True, slots=True)
class RebuiltFeatures:
    """What a feature store was made of."""

    n_taken: int
    """Users of imports, and rows of the log, that were taken in."""
    offsets: dict[int, int]
    """By partition: the log offset the store now stands at."""
    seconds: float


def rebuild_features(
    lake_location: str,
    settings: Settings,
    progress: Progress = lambda n_taken: None,
    *,
    log: EventLog | None = None,
    log_may_repeat: bool | None = None,
) -> RebuiltFeatures:
    """Replay the lake into a new store and give the one that serves its contents in one step.

    Readers see the old contents until then. People the lake has forgotten are in no history, and,
    other than in a store that lived through it, in no count either.

    Args:
        log: where it is looked up who was forgotten meanwhile; without it nobody may be.

    Raises:
        DataError: there is no lake to rebuild from.
        StoreError: lake or disk failed; the old contents stay.
    """
    started_s = time.monotonic()
    tables = find_tables(lake_location)
    if tables is None:
        raise DataError(
            f"the lake {lake_location} has no engagements to rebuild the features from; run"
            " 'python -m train_app ingest' or 'cluster import' first"
        )
    if log_may_repeat is None:
        log_may_repeat = open_log.log_may_repeat(settings)
    draft = open_feature_draft(settings)
    try:
        ends = tables.ends(range(settings.events.n_partitions))
        rules = fold_rules(settings, log_may_repeat=log_may_repeat)
        n_taken = _fill(draft, tables, ends, settings, rules, progress)
        draft.put_in_place()
    finally:
        draft.remove()
    if log is not None:
        # Now, not before: the old contents may have been past the word already.
        with closing(open_feature_writer(settings)) as writer:
            forget_since(log, tables, lake_location, writer)
    return RebuiltFeatures(n_taken, ends, time.monotonic() - started_s)


def _fill(
    draft: FeatureDraft,
    tables: LakeTables,
    ends: dict[int, int],
    settings: Settings,
    rules: FoldRules,
    progress: Progress,
) -> int:
    writer = draft.writer()
    n_taken = 0
    try:
        popular_limit = settings.features.popular_limit
        for n in replay(tables, ends, writer, rules, popular_limit, with_imports=True):
            n_taken += n
            progress(n_taken)
        for partition in set(range(settings.events.n_partitions)) - set(ends):
            # Stored as begun: whoever follows it would look for imports again.
            store_part(writer, None, DecodedPart(partition, 0), rules)
        ListPublisher(writer, settings, rules, time.monotonic).publish_all(ends)
    finally:
        writer.close()
    return n_taken
