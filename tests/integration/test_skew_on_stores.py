"""What serving reads from real stores and logs, the lake makes again, whatever befell the store."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from recsys.errors import DataRefused
from recsys.events import Engagement, Event, Impression
from recsys.settings import ServeSettings, Settings
from recsys.stores.features.open_features import open_feature_writer, open_features
from recsys.stores.log.event_log import SqliteEventLog
from recsys.stores.redis_features.redis_link import RedisLink
from recsys.types import UserState
from serve_app.answers import impression_of
from serve_app.asks import Answer, Ask, Chosen, Dropped
from serve_app.http.recommend_requests import RecommendRequest
from tests.feature_backends import a_feature_backend
from train_app.checking.check_commands import check_data
from train_app.following.features.rebuild_features import rebuild_features
from train_app.following.features.stream_features import FeatureStream
from train_app.following.replay_stores import take_all
from train_app.forgetting import forget
from train_app.importing.import_history import ImportOptions, run_import
from train_app.lake.archiving.archiver import Archiver
from train_app.lake.archiving.ingest import ingest
from train_app.lake.lake_tables import Lake

pytestmark = pytest.mark.integration

START_MS = 1_790_000_000_000
N_USERS, N_LOGGED = 40, 5
NO_ITEMS = Chosen([], [], [], [], [], [])
NOTHING_DROPPED = Dropped([], [], [], [], 0)


class Shop:
    """Events in, features followed, slates logged with the histories that were read for them."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now_ms = START_MS
        self.log = SqliteEventLog(settings.log_path, settings.events.n_partitions)
        self._rng = random.Random(11)
        self._n = 0

    def traffic(self, rounds: int, per_round: int = 30) -> None:
        """Rounds of events, some late or dated ahead, each followed and then served from."""
        with (
            closing(open_features(self.settings)) as store,
            closing(self._stream()) as stream,
        ):
            for _ in range(rounds):
                self.log.append([self._engagement() for _ in range(per_round)])
                # Some are served before the follower has taken everything in.
                stream.run_once(range(self.settings.events.n_partitions))
                users = [self._user() for _ in range(per_round)]
                self.log.append([self.slate(state) for state in store.read_users(users)])
            take_all(stream, self.log)

    def slate(self, state: UserState) -> Event:
        """A slate, logged as serving does."""
        self._n += 1
        ask = Ask(RecommendRequest(state.user_id, 1), f"r{self._n}", "stable", self.now_ms, 0.0)
        answer = Answer(
            ask, "b1", NO_ITEMS, [], NO_ITEMS, NOTHING_DROPPED, None, 1.0, (), state.version,
            tuple(event.item_id for event in state.history[-N_LOGGED:]), {},
        )  # fmt: skip
        return impression_of(answer, f"m{self._n}")

    def bring(self, name: str, n: int) -> None:
        """Import a file of histories."""
        rows = [
            f"{self._user()},i{self._rng.randrange(50)},{START_MS // 1000 - 50_000 + k * 7}"
            for k in range(n)
        ]
        source = self.settings.data_dir / name
        source.write_text("user_id,item_id,timestamp\n" + "\n".join(rows) + "\n")
        self.now_ms += 1
        run_import(ImportOptions(source), self.settings, lambda *_: None, lambda: self.now_ms)
        self.now_ms += 1

    def archive(self) -> None:
        """Everything of the log into the lake."""
        lake = Lake(self.settings.lake_location)
        ingest(self.log, lake, Archiver(self.log, lake, self.settings))

    def found(self) -> dict[str, int]:
        """What the check counts; it refuses if anything differs, and only then."""
        self.archive()
        outcome = check_data(self.settings, only=["skew"], now_ms=lambda: self.now_ms)
        figures = dict(outcome.document["checks"][0]["figures"])
        del figures["history_limit"]
        assert isinstance(outcome.error, DataRefused) == bool(figures.get("different"))
        return figures

    def _stream(self) -> FeatureStream:
        return FeatureStream(self.log, open_feature_writer(self.settings), self.settings)

    def _user(self) -> str:
        return f"u{min(self._rng.randrange(N_USERS), self._rng.randrange(N_USERS))}"

    def _engagement(self) -> Engagement:
        self._n += 1
        self.now_ms += 1000
        shift_ms = self._rng.choice([0, 0, 0, 0, -90_000, -4_000_000, -(10**9), 60_000])
        return Engagement(
            event_id=f"e{self._n}", kind=self._rng.choice(["click", "dismiss"]),
            user_id=self._user(), item_id=f"i{self._rng.randrange(50)}",
            timestamp_ms=self.now_ms + shift_ms, received_at_ms=self.now_ms, origin="api",
        )  # fmt: skip


@pytest.fixture(params=["sqlite", "redis"])
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Shop]:
    """A shop with short histories over either store."""
    with a_feature_backend(request.param, tmp_path) as backend:
        features = backend.settings.features.model_copy(update={"history_limit": 8})
        serve = ServeSettings(log_history=N_LOGGED)
        shop = Shop(backend.settings.model_copy(update={"features": features, "serve": serve}))
        yield shop
        shop.log.close()


def begin_anew(shop: Shop) -> None:
    """The store is lost; its follower makes it again."""
    if shop.settings.features.backend == "redis":
        with closing(RedisLink(shop.settings.features.redis_url, "", 5.0)) as link:
            link.ask([("FLUSHALL",)])
    else:
        shop.settings.feature_path.unlink()


def test_nothing_differs_whatever_befell_the_store_and_one_wrong_history_refuses(
    shop: Shop,
) -> None:
    """Imports before and between, a store lost and refilled, a rebuild, somebody forgotten."""
    shop.bring("first.csv", 300)
    shop.traffic(20)
    shop.bring("second.csv", 300)
    shop.traffic(10)
    assert shop.found() == {"impressions": 900, "equal": 900}
    begin_anew(shop)
    shop.traffic(10)
    assert shop.found() == {"impressions": 1200, "equal": 1200}
    if shop.settings.features.backend == "sqlite":
        rebuild_features(shop.settings.lake_location, shop.settings)
        shop.traffic(10)
    forget(shop.settings, "u0", lambda: shop.now_ms)
    shop.bring("third.csv", 50)
    shop.traffic(30)
    figures = shop.found()
    assert figures["equal"] == figures["impressions"] > 1900
    wrong = shop.slate(UserState("u1", (), 9))
    assert isinstance(wrong, Impression)
    shop.log.append([wrong])
    assert shop.found() == {
        "impressions": figures["impressions"] + 1, "equal": figures["equal"], "different": 1,
    }  # fmt: skip
