"""The feature store in a real Redis that dies, hangs, comes back, is full or wants a password."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Generator
from pathlib import Path

import pytest

from recsys.errors import ConfigError, StoreError
from recsys.events import Engagement
from recsys.settings import Settings
from recsys.stores.features.feature_contents import canonical_bytes
from recsys.stores.features.feature_update import FeatureUpdate, StoredPart
from recsys.stores.features.feature_writer import SqliteFeatureWriter
from recsys.stores.features.open_features import (
    PASSWORD_VARIABLE,
    open_feature_writer,
    open_features,
)
from recsys.stores.redis_features.redis_feature_writer import RedisFeatureWriter
from recsys.stores.redis_features.redis_features import RedisFeatureStore
from recsys.stores.redis_features.redis_link import RedisLink
from recsys.types import UserState
from serve_app.user_reads import UserReads
from tests.fakes_event_log import MemoryEventLog
from tests.feature_backends import a_state, counting, store, with_redis
from tests.redis_server import RedisServer, a_redis_server
from train_app.following.features.stream_features import FeatureStream

pytestmark = pytest.mark.integration

TIMEOUT_S = 0.05
SLACK_S = 0.5
"""A test machine may be busy; the bound that is held is of this size and not of minutes."""


@pytest.fixture
def server(tmp_path: Path) -> Generator[RedisServer]:
    """A running server."""
    with a_redis_server(tmp_path / "redis") as server:
        yield server


def a_reader(server: RedisServer) -> RedisFeatureStore:
    """A reader with a short timeout."""
    return RedisFeatureStore(server.url, "", TIMEOUT_S)


def failure_s(call: Callable[[], object]) -> float:
    """How long a call takes to fail."""
    started_s = time.perf_counter()
    with pytest.raises(StoreError):
        call()
    return time.perf_counter() - started_s


def await_recovery(reader: RedisFeatureStore, expected: UserState) -> None:
    """Until the reader answers again, by itself."""
    give_up_at = time.monotonic() + 10
    while True:
        try:
            assert reader.read_users([expected.user_id]) == [expected]
        except StoreError:
            assert time.monotonic() < give_up_at
            time.sleep(0.01)
        else:
            return


def test_a_server_that_hangs_is_given_up_in_time_and_read_again_when_it_goes_on(
    server: RedisServer,
) -> None:
    """The port takes connections, nobody answers."""
    writer, reader, stranger = open_writer(server), a_reader(server), a_reader(server)
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 3),)))
    assert reader.read_users(["u1"]) == [a_state("u1", 3)]
    server.pause()
    try:
        assert failure_s(lambda: reader.read_users(["u1"])) < TIMEOUT_S + SLACK_S
        assert failure_s(lambda: stranger.read_users(["u1"])) < TIMEOUT_S + SLACK_S
    finally:
        server.resume()
    await_recovery(reader, a_state("u1", 3))
    await_recovery(stranger, a_state("u1", 3))


def test_a_server_that_is_away_costs_nothing_after_some_tries(server: RedisServer) -> None:
    """The circuit opens: hundreds of reads fail in the time of a few."""
    reader = a_reader(server)
    assert reader.read_users(["u1"]) == [UserState("u1")]
    server.pause()
    try:
        for _ in range(3):
            failure_s(lambda: reader.read_users(["u1"]))
        quick_s = sorted(failure_s(lambda: reader.read_users(["u1"])) for _ in range(300))
        assert quick_s[150] < 0.001
        assert sum(quick_s) < 150 * TIMEOUT_S
    finally:
        server.resume()
    await_recovery(reader, UserState("u1"))


def test_what_was_stored_survives_a_killed_server(server: RedisServer) -> None:
    """The append-only file has values and offsets; readers and writers connect again."""
    writer, reader = open_writer(server), a_reader(server)
    users = ["u1", "u2"]
    for n in range(50):
        assert writer.update(0, n or None, users, [], counting(users, 1))
    server.kill()
    assert failure_s(lambda: reader.read_users(users)) < SLACK_S
    assert failure_s(lambda: writer.update(0, 50, users, [], counting(users, 1))) < SLACK_S
    server.start()
    offset = writer.offset(0)
    assert offset == 50
    assert writer.update(0, offset, users, [], counting(users, 1))
    await_recovery(reader, UserState("u1", (), 51))
    assert reader.offsets() == {0: 51}


def test_a_server_that_lost_everything_is_begun_anew(server: RedisServer) -> None:
    """As a missing file: no offsets, so that the stream starts from the log's beginning."""
    writer, reader = open_writer(server), a_reader(server)
    store(writer, FeatureUpdate(0, 7, states=(a_state("u1", 2),)))
    server.kill()
    server.forget_everything()
    server.start()
    await_recovery(reader, UserState("u1"))
    with pytest.raises(StoreError, match="lost partition 0"):
        writer.update(0, 7, ["u1"], [], counting(["u1"], 1))
    assert writer.offset(0) is None
    assert writer.update(0, 7, ["u1"], [], counting(["u1"], 1)) is None
    assert store(writer, FeatureUpdate(0, 1), ["u1"]) == StoredPart(None)


def test_a_database_emptied_under_its_stream_is_filled_again(
    server: RedisServer, tmp_path: Path
) -> None:
    """The stream notices, begins anew and ends with the values of one that saw nothing of it."""
    log = MemoryEventLog(2)
    log.append([an_engagement(n) for n in range(300)])
    writer = open_writer(server)
    stream = FeatureStream(log, writer, with_redis(Settings(data_dir=tmp_path), server.url))
    follow(stream)
    RedisLink(server.url, "", 1.0).ask([("FLUSHDB",)])
    log.append([an_engagement(n) for n in range(300, 310)])
    with pytest.raises(StoreError, match="filled again"):
        follow(stream)
    follow(stream)
    undisturbed = SqliteFeatureWriter(tmp_path / "f.sqlite")
    follow(FeatureStream(log, undisturbed, Settings(data_dir=tmp_path)))
    assert canonical_bytes(writer.contents()) == canonical_bytes(undisturbed.contents())
    assert len(writer.contents().states) == 7
    undisturbed.close()
    stream.close()


def follow(stream: FeatureStream) -> None:
    """Until nothing is new."""
    while stream.run_once(range(2)):
        pass


def an_engagement(n: int) -> Engagement:
    """The n-th click, of one of seven users."""
    return Engagement(
        event_id=f"e{n}",
        kind="click",
        user_id=f"u{n % 7}",
        item_id=f"i{n % 5}",
        timestamp_ms=1_790_000_000_000 + n,
        received_at_ms=1_790_000_000_000 + n,
        origin="api",
    )


def test_a_hanging_server_does_not_hold_up_the_event_loop(server: RedisServer) -> None:
    """Everything else goes on while a read waits, and the read ends in time."""
    settings = with_redis(Settings(), server.url, timeout_ms=200)
    reads = UserReads(open_features(settings), settings.features)

    async def longest_gap_s() -> float:
        assert await reads.read(["u1"]) == [UserState("u1")]
        server.pause()
        reading = asyncio.create_task(reads.read(["u1"]))
        longest_s, last_s = 0.0, time.perf_counter()
        started_s = last_s
        while not reading.done():
            await asyncio.sleep(0.001)
            now_s = time.perf_counter()
            longest_s, last_s = max(longest_s, now_s - last_s), now_s
        assert last_s - started_s < 0.2 + SLACK_S
        with pytest.raises(StoreError, match="within 200 ms"):
            reading.result()
        return longest_s

    try:
        assert asyncio.run(longest_gap_s()) < 0.15
    finally:
        server.resume()


def test_a_password_is_taken_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it, or with a wrong one, the error says which variable to set, and no secret."""
    with a_redis_server(tmp_path, password="s3cret") as server:
        settings = with_redis(Settings(), server.url)
        for wrong in ("", "wr0ng"):
            monkeypatch.setenv(PASSWORD_VARIABLE, wrong)
            with pytest.raises(StoreError, match=PASSWORD_VARIABLE) as refused:
                open_features(settings).read_users(["u1"])
            assert "wr0ng" not in str(refused.value)
            with pytest.raises(StoreError, match=PASSWORD_VARIABLE):
                open_feature_writer(settings)
        monkeypatch.setenv(PASSWORD_VARIABLE, "s3cret")
        store(open_feature_writer(settings), FeatureUpdate(0, 1, states=(a_state("u1", 1),)))
        assert open_features(settings).read_users(["u1"]) == [a_state("u1", 1)]


def test_a_server_that_throws_keys_away_is_refused(server: RedisServer) -> None:
    """Without its offset a partition would be counted twice."""
    RedisLink(server.url, "", 1.0).ask([("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")])
    with pytest.raises(ConfigError, match="noeviction"):
        open_writer(server)


def test_a_full_server_refuses_an_update_whole(server: RedisServer) -> None:
    """Nothing is lost or half written, reads go on, and with more memory so does the stream."""
    writer, reader, link = open_writer(server), a_reader(server), RedisLink(server.url, "", 1.0)
    store(writer, FeatureUpdate(0, 1, states=(a_state("u1", 1),)))
    link.ask([("CONFIG", "SET", "maxmemory", 1_500_000)])
    big = FeatureUpdate(0, 2, states=tuple(a_state(f"u{n}", 200) for n in range(1000)))

    def fill() -> None:
        for n in range(1, 20):
            writer.update(0, n, [], [], lambda _, n=n: replaced(big, n + 1))

    with pytest.raises(StoreError, match="maxmemory"):
        fill()
    offset = writer.offset(0)
    assert offset is not None
    n_stored = len(writer.contents().states)
    assert n_stored in {1, 1000}
    assert (n_stored == 1000) == (offset > 1)
    assert reader.read_users(["u1"])[0].version in {1, 200}
    link.ask([("CONFIG", "SET", "maxmemory", 0)])
    assert writer.update(0, offset, [], [], lambda _: replaced(big, offset + 1))
    assert reader.read_users(["u999"]) == [a_state("u999", 200)]


def test_a_forgotten_user_is_in_no_key_and_no_value(server: RedisServer) -> None:
    """Whatever the user's id was a part of."""
    writer, link = open_writer(server), RedisLink(server.url, "", 1.0)
    name = "somebody-unmistakable"
    update = FeatureUpdate(
        0,
        1,
        states=(a_state(name, 5),),
        item_counts={(300, 0, "a"): (1, 0)},
        pair_counts={(0, "a", "b"): 1},
        seen={"e1": 1},
    )
    store(writer, update)
    assert name.encode() in everything(link)
    assert writer.forget_user(name)
    assert name.encode() not in everything(link)


def everything(link: RedisLink) -> bytes:
    """Every key with a serialised form of its value, uncompressed."""
    link.ask([("CONFIG", "SET", "rdbcompression", "no")])
    (names,) = link.ask([("KEYS", "*")])
    return b"".join([*names, *link.ask([("DUMP", name) for name in names])])


def replaced(update: FeatureUpdate, next_offset: int) -> FeatureUpdate:
    """The same update, to another offset."""
    return FeatureUpdate(update.partition, next_offset, states=update.states)


def open_writer(server: RedisServer) -> RedisFeatureWriter:
    """A writer."""
    return RedisFeatureWriter(server.url, "")
