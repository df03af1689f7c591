"""Stores what a run of one partition's records changes; part of the writer, `stream_features`."""

from __future__ import annotations

from recsys.stores.features.feature_update import FeatureUpdate, FeatureWriter
from train_app.following.features.feature_fold import FoldRules, fold_part
from train_app.following.features.feature_records import DecodedPart


def store_part(
    writer: FeatureWriter, offset: int | None, decoded: DecodedPart, rules: FoldRules
) -> FeatureUpdate | None:
    """Fold the records into the store; None, and no change, where it does not stand at `offset`."""
    return writer.update(
        decoded.partition,
        offset,
        decoded.user_ids,
        decoded.event_ids if rules.dedup_window_ms else (),
        lambda stored: fold_part(decoded, stored, rules),
    )
