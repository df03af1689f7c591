"""A feature store in memory: the second implementation of `FeatureStore`, for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recsys.events import CatalogueChange
from recsys.stores.feature_store import CatalogueView
from recsys.types import Item, UserState


class MemoryFeatureStore:
    """Answers from what it is made of; `popular` is most popular first."""

    def __init__(
        self,
        states: Sequence[UserState] = (),
        popular: Sequence[tuple[str, float]] = (),
        catalogue: Sequence[CatalogueChange] = (),
        offsets: Mapping[int, int] | None = None,
    ) -> None:
        self._states = {state.user_id: state for state in states}
        self._popular = list(popular)
        self._changes = list(catalogue)
        self._offsets = dict(offsets or {})

    def read_users(self, user_ids: Sequence[str]) -> list[UserState]:
        """The states of many users at once, in the order asked for."""
        return [self._states.get(user_id) or UserState(user_id) for user_id in user_ids]

    def popular(self, limit: int) -> list[tuple[str, float]]:
        """At most `limit` item ids with their scores, most popular first."""
        return self._popular[:limit]

    def catalogue(self, since_version: int = 0) -> CatalogueView:
        """Deleted items, and the items put since a version."""
        versions = {change.item_id: version for version, change in enumerate(self._changes, 1)}
        current = [self._changes[version - 1] for version in sorted(versions.values())]
        return CatalogueView(
            version=len(self._changes),
            blocked=frozenset(change.item_id for change in current if change.deleted),
            items=tuple(
                Item(c.item_id, c.title, c.categories, c.creator, c.created_ms)
                for c in current
                if not c.deleted and versions[c.item_id] > since_version
            ),
        )

    def offsets(self) -> dict[int, int]:
        """The log offset up to which each partition is reflected (exclusive)."""
        return dict(self._offsets)
