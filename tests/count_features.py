"""A writer of features to be killed: one event of every user a batch, from what is stored on."""

from __future__ import annotations

from recsys.settings import Settings
from recsys.stores.features.feature_update import FeatureUpdate, StoredPart
from recsys.stores.features.open_features import open_feature_writer
from recsys.types import HistoryEvent, UserState

USERS = tuple(f"u{n}" for n in range(30))
ITEMS = tuple(f"i{n}" for n in range(10))
HISTORY_LIMIT = 20


def one_batch(before: StoredPart) -> FeatureUpdate:
    """What one batch makes of what is stored."""
    offset = before.offset or 0
    return FeatureUpdate(
        partition=0,
        next_offset=offset + 1,
        watermark_ms=offset,
        states=tuple(_grown(before.states.get(user_id, UserState(user_id))) for user_id in USERS),
        item_counts={(300, 0, item_id): (1, 2) for item_id in ITEMS},
        pair_counts={(1, item_id, item_id): 1 for item_id in ITEMS},
        seen={f"e{offset}": offset},
    )


def _grown(state: UserState) -> UserState:
    event = HistoryEvent("i1", "click", state.version)
    return UserState(state.user_id, (*state.history, event)[-HISTORY_LIMIT:], state.version + 1)


def count_features(settings: Settings, n_batches: int) -> None:
    """Store batches until there are so many."""
    writer = open_feature_writer(settings)
    while ((offset := writer.offset(0)) or 0) < n_batches:
        writer.update(0, offset, USERS, [f"e{offset}"], one_batch)
    writer.close()
