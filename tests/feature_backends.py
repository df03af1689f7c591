"""The feature stores that the conformance suites hold to one contract, each empty at first."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from recsys.events import CatalogueChange
from recsys.settings import Settings
from recsys.stores.features.feature_store import FeatureStore
from recsys.stores.features.feature_update import FeatureUpdate, FeatureWriter, StoredPart
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.redis_features.redis_link import RedisLink
from recsys.types import HistoryEvent, UserState
from tests.redis_server import a_redis_server

BACKENDS = ("sqlite", "redis")


@dataclass(frozen=True)
class FeatureBackend:
    """One kind of feature store, as the settings name it."""

    settings: Settings

    def writer(self) -> FeatureWriter:
        """A writer; several may be open."""
        return open_feature_writer(self.settings)

    def reader(self) -> FeatureStore:
        """A reader."""
        return open_features(self.settings)


@contextmanager
def a_feature_backend(kind: str, directory: Path) -> Generator[FeatureBackend]:
    """An empty store of a kind; skips where there is no server for it."""
    settings = Settings(data_dir=directory)
    if kind == "sqlite":
        yield FeatureBackend(settings)
        return
    with a_redis_server(directory / "redis") as server:
        yield FeatureBackend(with_redis(settings, server.url))


def with_redis(settings: Settings, url: str, timeout_ms: int = 1000) -> Settings:
    """The settings with the features in Redis; patient, for busy test machines."""
    features = settings.features.model_copy(
        update={"backend": "redis", "redis_url": url, "redis_timeout_ms": timeout_ms}
    )
    return settings.model_copy(update={"features": features})


def a_state(user_id: str, n_events: int, version: int | None = None) -> UserState:
    """A user with some history."""
    history = tuple(HistoryEvent(f"i{n}", "click", 1000 + n) for n in range(n_events))
    return UserState(user_id, history, n_events if version is None else version)


def a_put(item_id: str, title: str = "") -> CatalogueChange:
    """An item put into the catalogue."""
    return CatalogueChange(
        event_id=f"put-{item_id}-{title}",
        item_id=item_id,
        timestamp_ms=1,
        title=title,
        categories=("drama", "ü"),
        creator="somebody",
        created_ms=-5,
    )


def a_deletion(item_id: str) -> CatalogueChange:
    """An item taken out of the catalogue."""
    return CatalogueChange(event_id=f"del-{item_id}", item_id=item_id, timestamp_ms=2, deleted=True)


def store(
    writer: FeatureWriter,
    update: FeatureUpdate,
    user_ids: Sequence[str] = (),
    event_ids: Sequence[str] = (),
) -> StoredPart:
    """Store one update on top of whatever offset is stored; what the fold was given."""
    given: list[StoredPart] = []

    def fold(before: StoredPart) -> FeatureUpdate:
        given.append(before)
        return update

    offset = writer.offset(update.partition)
    assert writer.update(update.partition, offset, user_ids, event_ids, fold) == update
    return given[-1]


def counting(user_ids: Sequence[str], n_records: int) -> Callable[[StoredPart], FeatureUpdate]:
    """A fold that adds one to the version of every user and moves on by so many records."""

    def fold(before: StoredPart) -> FeatureUpdate:
        return FeatureUpdate(
            partition=0,
            next_offset=(before.offset or 0) + n_records,
            watermark_ms=before.watermark_ms + 1,
            states=raised(before.states, user_ids),
        )

    return fold


def raised(states: Mapping[str, UserState], user_ids: Sequence[str]) -> tuple[UserState, ...]:
    """The states of these users with the version one higher."""
    before = (states.get(user_id) or UserState(user_id) for user_id in user_ids)
    return tuple(replace(state, version=state.version + 1) for state in before)


def pairs_of(*named: tuple[str, str], day: int = 5) -> dict[tuple[int, str, str], int]:
    """One pair each, in both directions, and the degrees they add."""
    counts: dict[tuple[int, str, str], int] = {}
    for item_id, other_id in named:
        directions = ((item_id, other_id), (other_id, item_id))
        for pair in (*directions, (item_id, item_id), (other_id, other_id)):
            counts[day, *pair] = counts.get((day, *pair), 0) + 1
    return counts


def emptied(backend: FeatureBackend) -> None:
    """Lose everything the store holds, as an operator would."""
    settings = backend.settings
    if settings.features.backend == "sqlite":
        settings.feature_path.unlink()
        return
    link = RedisLink(settings.features.redis_url, "", 10)
    link.ask([("FLUSHDB",)])
    link.close()


def together(targets: list[Callable[[], None]]) -> None:
    """Run in threads at once; the first failure is raised."""
    failures: list[BaseException] = []

    def guarded(target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(target,)) for target in targets]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]
    assert not any(thread.is_alive() for thread in threads)
